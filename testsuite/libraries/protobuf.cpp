/* Messages of types that are made at run time, and of the library's own generated ones; as bytes, text and JSON. */
#include "job.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <google/protobuf/dynamic_message.h>
#include <google/protobuf/struct.pb.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/json_util.h>

#include <string>

using namespace google::protobuf;

static uint64_t add(uint64_t all, const std::string &text) {
	return digest(all, text.data(), text.size());
}

static FieldDescriptorProto *add_field(DescriptorProto *type, const char *name, int number, FieldDescriptorProto::Type kind) {
	FieldDescriptorProto *field = type->add_field();
	field->set_name(name);
	field->set_number(number);
	field->set_type(kind);
	field->set_label(FieldDescriptorProto::LABEL_OPTIONAL);
	return field;
}

static uint64_t add_dynamic(uint64_t all, uint32_t seed) {
	FileDescriptorProto file;
	file.set_name("tree.proto");
	file.set_syntax("proto3");
	DescriptorProto *type = file.add_message_type();
	type->set_name("Tree");
	add_field(type, "name", 1, FieldDescriptorProto::TYPE_STRING);
	add_field(type, "weight", 2, FieldDescriptorProto::TYPE_DOUBLE);
	FieldDescriptorProto *children = add_field(type, "children", 3, FieldDescriptorProto::TYPE_MESSAGE);
	children->set_label(FieldDescriptorProto::LABEL_REPEATED);
	children->set_type_name("Tree");

	DescriptorPool pool;
	const FileDescriptor *built = pool.BuildFile(file);
	REQUIRE(built);
	const Descriptor *tree = built->message_type(0);
	DynamicMessageFactory factory(&pool);
	std::unique_ptr<Message> root(factory.GetPrototype(tree)->New());
	const Reflection *reflection = root->GetReflection();
	for (Message *at = root.get(), *child; seed % 64; at = child, seed--) {
		for (int i = 0; i < 5; i++) {
			child = reflection->AddMessage(at, tree->field(2));
			reflection->SetString(child, tree->field(0), "child " + std::to_string(next_random(&seed) % 100));
			reflection->SetDouble(child, tree->field(1), i / 8.0);
		}
		if (seed % 8 == 0)
			break;
	}
	std::string bytes, printed;
	REQUIRE(root->SerializeToString(&bytes) && TextFormat::PrintToString(*root, &printed));
	std::unique_ptr<Message> copy(root->New());
	REQUIRE(copy->ParseFromString(bytes) && copy->ByteSizeLong() == bytes.size());
	REQUIRE(!copy->ParseFromString(bytes.substr(0, bytes.size() - 1)) || bytes.empty());
	return add(add(all, bytes), printed);
}

static uint64_t add_generated(uint64_t all, uint32_t seed) {
	std::string json = "{\"list\":[";
	for (int i = 0; i < 200; i++)
		json += (i ? "," : "") + std::string("{\"id\":") + std::to_string(next_random(&seed)) + ",\"name\":\"n" + std::to_string(i) + "\"}";
	json += "]}";
	Struct message, copy;
	REQUIRE(util::JsonStringToMessage(json, &message).ok());
	std::string bytes, printed, written;
	REQUIRE(message.SerializeToString(&bytes) && copy.ParseFromString(bytes));
	REQUIRE(util::MessageToJsonString(copy, &written).ok());
	REQUIRE(TextFormat::PrintToString(copy.fields().at("list"), &printed));
	all = add(add(all, written.substr(0, 10)), printed);
	return add(all, Struct::descriptor()->file()->name());
}

static uint64_t run(uint32_t seed) {
	return add_generated(add_dynamic(DIGEST_START, seed), seed);
}

const struct job jobs[] = { { "protobuf", run, false }, { nullptr, nullptr, false } };
