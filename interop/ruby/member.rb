#!/usr/bin/env ruby
# frozen_string_literal: true

# A member written in Ruby: registers, creates the cluster if nobody has yet, joins it, waits until
# everybody is there, and prints the roster.
#
#   member.rb ADDRESS ROOT.pem DESCRIPTORS CLUSTER SIZE NAME ENDPOINT
#
# Debian's ruby-grpc is all it needs. DESCRIPTORS is crates/xlreg-api/src/descriptors.bin; who
# prefers generated code takes grpc_tools_ruby_protoc and leaves the module Wire out.

require "grpc"
require "google/protobuf/descriptor_pb"
require "google/protobuf/duration_pb"
require "google/protobuf/timestamp_pb"
require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require "openssl"

# The messages and the service, from the descriptors.
module Wire
  POOL = Google::Protobuf::DescriptorPool.generated_pool

  def self.load(path)
    set = Google::Protobuf::FileDescriptorSet.decode(File.binread(path))
    file = set.file.find { |one| one.package == "xlreg.v2" }
    POOL.add_serialized_file(Google::Protobuf::FileDescriptorProto.encode(file))
    service = Class.new do
      include GRPC::GenericService

      self.marshal_class_method = :encode
      self.unmarshal_class_method = :decode
      self.service_name = "xlreg.v2.Registry"
      file.service.first["method"].each do |call|
        types = [call.input_type, call.output_type].map { |type| Wire.message(type.sub("xlreg.v2.", "")) }
        types[1] = stream(types[1]) if call.server_streaming
        rpc call.name.to_sym, *types
      end
    end
    service.rpc_stub_class
  end

  def self.message(name)
    POOL.lookup("xlreg.v2.#{name.delete_prefix('.')}").msgclass
  end
end

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
    comms.sign_pss("SHA256", "xlreg.v2 comms key\n".b + prints.join, salt_length: 32, mgf1_hash: "SHA256")
  end
end

# Why a call was refused, as the registry says it.
def reason(error)
  info = error.to_rpc_status&.details&.find { |one| one.type_url.end_with?("google.rpc.ErrorInfo") }
  info && Google::Rpc::ErrorInfo.decode(info.value).reason
end

def apply(roster, event)
  case event.event
  when :snapshot then event.snapshot.members.to_h { |member| [member.rank, member] }
  when :change
    member = event.change.member
    roster.reject { |rank, _| rank == member.rank }.tap do |left|
      left[member.rank] = member unless event.change.kind == :CHANGE_KIND_EXPELLED
    end
  when :gone then abort "error: the cluster is gone"
  else roster
  end
end

abort "usage: member.rb ADDRESS ROOT.pem DESCRIPTORS CLUSTER SIZE NAME ENDPOINT" if ARGV.size != 7
address, root, descriptors, name, size, member, endpoint = ARGV
stub = Wire.load(descriptors)
root = File.read(root)
registry = OpenSSL::X509::Certificate.new(root).public_key
node = Node.new
tls = GRPC::Core::ChannelCredentials.new(root, node.sig.to_pem, node.certificate.to_pem)
ask = stub.new(address, tls, timeout: 30)

def request(name, **fields) = Wire.message("#{name}Request").new(**fields)

begin
  ask.register(request("Register", comms_key: node.comms.public_to_der, comms_proof: node.comms_proof(registry)))
  ask.create_cluster(request("CreateCluster", name: name, size: Integer(size)))
  cluster = Wire.message("ClusterRef").new(name: name)
  ask.join_cluster(request("JoinCluster", cluster: cluster, name: member, endpoints: [endpoint]))
  roster = {}
  ask.watch_cluster(request("WatchCluster", cluster: cluster)).each do |event|
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
