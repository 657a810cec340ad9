#!/usr/bin/env ruby
# frozen_string_literal: true

# A member written in Ruby: registers, creates the cluster if nobody has yet, joins it, waits until
# everybody is there, and prints the roster.
#
#   member.rb ADDRESS ROOT.pem DESCRIPTORS CLUSTER SIZE NAME ENDPOINT
#
# Debian's ruby-grpc is all it needs. DESCRIPTORS is crates/xlreg-api/src/descriptors.bin.

require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require "openssl"
require_relative "wire"

# A node: two keys, and what it proves with them.
class Node
  attr_reader :sig, :comms

  def initialize
    @sig, @comms = Array.new(2) { OpenSSL::PKey::RSA.new(2048) }
  end

  # Self-signed with the sig key. Only the key in it counts.
  def certificate
    OpenSSL::X509::Certificate.new.tap do |cert|
      cert.version = 2
      cert.serial = OpenSSL::BN.rand(64)
      cert.subject = cert.issuer = OpenSSL::X509::Name.parse("/CN=xlreg node")
      cert.not_before = Time.now - 3600
      cert.not_after = Time.now + (3650 * 86_400)
      cert.public_key = sig
      cert.sign(sig, "SHA256")
    end
  end

  # That the holder of the comms key agrees to be known by the sig key, at this registry.
  def comms_proof(registry)
    prints = [registry, sig, comms].map { |key| OpenSSL::Digest::SHA256.digest(key.public_to_der) }
    statement = "xlreg.v2 comms key\n".b + prints.join
    comms.sign_pss("SHA256", statement, salt_length: 32, mgf1_hash: "SHA256")
  end
end

# Why a call was refused, as the registry says it.
def reason(error)
  info = error.to_rpc_status&.details&.find { |one| one.type_url.end_with?("google.rpc.ErrorInfo") }
  info && Google::Rpc::ErrorInfo.decode(info.value).reason
end

# The roster, by rank, after an event.
def apply(roster, event)
  case event.event
  when :snapshot
    event.snapshot.members.to_h { |member| [member.rank, member] }
  when :change
    member = event.change.member
    rest = roster.reject { |rank, _| rank == member.rank }
    event.change.kind == :CHANGE_KIND_EXPELLED ? rest : rest.merge(member.rank => member)
  when :gone
    abort "error: the cluster is gone"
  else
    roster
  end
end

abort "usage: member.rb ADDRESS ROOT.pem DESCRIPTORS CLUSTER SIZE NAME ENDPOINT" if ARGV.size != 7
address, root, descriptors, name, size, member, endpoint = ARGV
V2 = Wire.load(descriptors)
root = File.read(root)
registry = OpenSSL::X509::Certificate.new(root).public_key
node = Node.new
tls = GRPC::Core::ChannelCredentials.new(root, node.sig.to_pem, node.certificate.to_pem)
ask = V2::Registry.new(address, tls, timeout: 30)
cluster = V2::ClusterRef.new(name: name)

begin
  proof = node.comms_proof(registry)
  ask.register(V2::RegisterRequest.new(comms_key: node.comms.public_to_der, comms_proof: proof))
  ask.create_cluster(V2::CreateClusterRequest.new(name: name, size: Integer(size)))
  ask.join_cluster(V2::JoinClusterRequest.new(cluster: cluster, name: member, endpoints: [endpoint]))
  roster = {}
  ask.watch_cluster(V2::WatchClusterRequest.new(cluster: cluster)).each do |event|
    roster = apply(roster, event)
    break if event.complete
  end
rescue GRPC::BadStatus => e
  abort "error: #{reason(e) || e.code}: #{e.details}"
end

roster.sort.each do |rank, one|
  print = OpenSSL::Digest::SHA256.hexdigest(one.sig_key)
  puts "#{rank} #{one.name} #{one.endpoints.join(' ')} #{print[0, 16]}"
end
