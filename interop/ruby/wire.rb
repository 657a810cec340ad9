# frozen_string_literal: true

# The registry's messages and service without generated code, from
# crates/xlreg-api/src/descriptors.bin:
#
#   V2 = Wire.load("descriptors.bin")
#   V2::Registry.new(address, credentials).register(V2::RegisterRequest.new(...))
#
# Who prefers generated code takes grpc_tools_ruby_protoc instead; the module is then Xlreg::V2.

require "grpc"
require "google/protobuf/descriptor_pb"
require "google/protobuf/duration_pb"
require "google/protobuf/timestamp_pb"

module Wire
  POOL = Google::Protobuf::DescriptorPool.generated_pool

  # A module with a class for each message, and the stub of the service.
  def self.load(path)
    set = Google::Protobuf::FileDescriptorSet.decode(File.binread(path))
    file = set.file.find { |one| one.package == "xlreg.v2" }
    POOL.add_serialized_file(Google::Protobuf::FileDescriptorProto.encode(file))
    Module.new.tap do |v2|
      file.message_type.each { |one| v2.const_set(one.name, message(one, file.package)) }
      v2.const_set(:Registry, service(file.service.first, file.package).rpc_stub_class)
    end
  end

  # Older versions of google-protobuf can't read a field whose message's class nobody has asked for
  # yet; so those within are asked for, too.
  def self.message(one, scope)
    name = "#{scope}.#{one.name}"
    one.nested_type.each { |inner| message(inner, name) }
    POOL.lookup(name).msgclass
  end

  def self.service(described, package)
    Class.new do
      include GRPC::GenericService

      self.marshal_class_method = :encode
      self.unmarshal_class_method = :decode
      self.service_name = "#{package}.#{described.name}"
      described["method"].each do |call|
        request, answer = [call.input_type, call.output_type].map do |type|
          POOL.lookup(type.delete_prefix(".")).msgclass
        end
        rpc call.name.to_sym, request, call.server_streaming ? stream(answer) : answer
      end
    end
  end
end
