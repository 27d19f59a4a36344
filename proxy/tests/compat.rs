//! Writes `docs/COMPAT.md` from the table of fields, and decodes every message of the API.
//!
//! `UPDATE_EXPECT=1 cargo test --test compat` writes the page anew; without it a difference fails.

use std::collections::BTreeMap;
use std::fmt::Write;

use envoy_types::pb::envoy as pb;
use expect_test::expect_file;
use prost::Message;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value,
};
use selvedge::config::bootstrap::descriptors;
use selvedge::config::fields::{Class, Table};

/// The API's own messages: no entries of maps, nothing of protobuf itself.
fn messages(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    let ours = |m: &MessageDescriptor| {
        !m.is_map_entry()
            && ["envoy.", "xds."].iter().any(|package| m.full_name().starts_with(package))
            && !m.full_name().starts_with("envoy.annotations.")
    };
    let mut all: Vec<_> = pool.all_messages().filter(ours).collect();
    all.sort_by(|a, b| a.full_name().cmp(b.full_name()));
    all
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    implemented: usize,
    harmless: usize,
    refused: usize,
}

impl Counts {
    fn of(table: &Table<'_>, message: &MessageDescriptor) -> Counts {
        let mut counts = Counts::default();
        for field in message.fields() {
            match table.class(message.full_name(), field.name()) {
                Class::Implemented => counts.implemented += 1,
                Class::Harmless => counts.harmless += 1,
                Class::Refused => counts.refused += 1,
            }
        }
        counts
    }
}

fn names(message: &MessageDescriptor, table: &Table<'_>, class: Class) -> String {
    let fields = message.fields().filter(|f| table.class(message.full_name(), f.name()) == class);
    fields.map(|f| format!("`{}`", f.name())).collect::<Vec<_>>().join(" ")
}

fn page(pool: &DescriptorPool) -> String {
    let table = Table::read();
    let all = messages(pool);
    let (known, unknown): (Vec<_>, Vec<_>) = all.iter().partition(|m| table.knows(m.full_name()));
    let mut sum = Counts::default();
    let mut rows = String::new();
    for message in &known {
        let counts = Counts::of(&table, message);
        sum.implemented += counts.implemented;
        sum.harmless += counts.harmless;
        sum.refused += counts.refused;
        let _ = writeln!(
            rows,
            "| `{}` | {} | {} | {} | {} | {} |",
            message.full_name(),
            counts.implemented,
            counts.harmless,
            counts.refused,
            names(message, &table, Class::Implemented),
            names(message, &table, Class::Harmless),
        );
    }
    let refused: usize = unknown.iter().map(|m| m.fields().len()).sum();
    let mut out = format!(
        "# What of Envoy's API is obeyed\n\n\
         Generated from `proxy/src/config/fields.txt` and the descriptors of the `envoy-types` crate by \
         `UPDATE_EXPECT=1 cargo test --test compat`.\n\n\
         Every message decodes. A configuration that sets a field which is neither implemented nor harmless is refused \
         with the path of that field: nothing is parsed and ignored. Harmless: without it a user sees no difference. \
         Beyond this table the values of some fields are refused, each with its path.\n\n\
         | | messages | fields implemented | harmless | refused |\n|---|---|---|---|---|\n\
         | messages in use | {} | {} | {} | {} |\n| other messages | {} | 0 | 0 | {refused} |\n\n\
         ## Messages in use\n\n\
         | message | implemented | harmless | refused | implemented fields | harmless fields |\n\
         |---|---|---|---|---|---|\n{rows}\n## Other messages\n\n\
         Each with the number of its fields, all refused.\n",
        known.len(),
        sum.implemented,
        sum.harmless,
        sum.refused,
        unknown.len(),
    );
    let mut packages: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in unknown {
        let package = message.package_name();
        let name = message.full_name().strip_prefix(package).unwrap_or_default().trim_start_matches('.');
        packages.entry(package.to_owned()).or_default().push(format!("{name} {}", message.fields().len()));
    }
    for (package, messages) in packages {
        let _ = write!(out, "\n`{package}`: {}\n", messages.join(", "));
    }
    out
}

#[test]
fn the_page_tells_the_table() {
    expect_file!["../../docs/COMPAT.md"].assert_eq(&page(&descriptors()));
}

/// A value that is not the default.
fn sample(field: &FieldDescriptor, kind: &Kind) -> Value {
    match kind {
        Kind::Double => Value::F64(1.5),
        Kind::Float => Value::F32(1.5),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(-7),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(-7),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(7),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(7),
        Kind::Bool => Value::Bool(true),
        Kind::String => Value::String("text".to_owned()),
        Kind::Bytes => Value::Bytes(vec![1, 2, 3].into()),
        Kind::Enum(e) => Value::EnumNumber(e.values().last().map_or(1, |v| v.number().max(1))),
        Kind::Message(m) if field.cardinality() == Cardinality::Repeated || m.fields().len() == 0 => {
            Value::Message(DynamicMessage::new(m.clone()))
        }
        // One level deeper, so that lengths within lengths are decoded too.
        Kind::Message(m) => {
            let mut inner = DynamicMessage::new(m.clone());
            let scalar =
                m.fields().find(|f| !f.is_list() && !f.is_map() && !matches!(f.kind(), Kind::Message(_)));
            if let Some(scalar) = scalar {
                inner.set_field(&scalar, sample(&scalar, &scalar.kind()));
            }
            Value::Message(inner)
        }
    }
}

fn filled_field(field: &FieldDescriptor) -> Value {
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let key = match entry.map_entry_key_field().kind() {
            Kind::Bool => MapKey::Bool(true),
            Kind::Uint32 | Kind::Fixed32 => MapKey::U32(3),
            Kind::Uint64 | Kind::Fixed64 => MapKey::U64(3),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(3),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(3),
            _ => MapKey::String("key".to_owned()),
        };
        let value = entry.map_entry_value_field();
        return Value::Map([(key, sample(&value, &value.kind()))].into());
    }
    if field.is_list() {
        return Value::List(vec![sample(field, &field.kind()); 2]);
    }
    sample(field, &field.kind())
}

#[test]
fn every_message_decodes() {
    let pool = descriptors();
    let all = messages(&pool);
    assert!(all.len() >= 1300, "only {} messages", all.len());
    for desc in &all {
        let empty = DynamicMessage::decode(desc.clone(), &[][..]).expect("an empty message");
        assert_eq!(empty.encoded_len(), 0, "{}", desc.full_name());
        for field in desc.fields() {
            let mut message = DynamicMessage::new(desc.clone());
            message.set_field(&field, filled_field(&field));
            let bytes = message.encode_to_vec();
            let again = DynamicMessage::decode(desc.clone(), &bytes[..])
                .unwrap_or_else(|e| panic!("{}: {e}", field.full_name()));
            assert!(again == message, "{} changes", field.full_name());
            assert_eq!(again.unknown_fields().count(), 0, "{}", field.full_name());
            assert!(again.has_field(&field), "{} is lost", field.full_name());
        }
    }
}

/// A message with all its fields set, of each oneof the last.
fn filled(desc: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(desc.clone());
    for field in desc.fields() {
        message.set_field(&field, filled_field(&field));
    }
    message
}

/// The typed form keeps what the descriptor knows: both are of the same version of the API.
fn agree<M: Message + Default>(pool: &DescriptorPool, name: &str) {
    let desc = pool.get_message_by_name(name).unwrap_or_else(|| panic!("no message {name}"));
    let message = filled(&desc);
    let typed = M::decode(&message.encode_to_vec()[..]).unwrap_or_else(|e| panic!("{name}: {e}"));
    let again = DynamicMessage::decode(desc, &typed.encode_to_vec()[..]).expect("what was just encoded");
    assert!(again == message, "{name} changes");
}

#[test]
fn typed_messages_agree_with_their_descriptors() {
    use pb::config::{accesslog, bootstrap, cluster, core, endpoint, listener, route};
    use pb::extensions::access_loggers::{file, stream};
    use pb::extensions::filters::http as filters;
    use pb::extensions::filters::network::http_connection_manager::v3 as hcm;
    use pb::extensions::{load_balancing_policies, upstreams};
    let pool = &descriptors();
    agree::<bootstrap::v3::Bootstrap>(pool, "envoy.config.bootstrap.v3.Bootstrap");
    agree::<bootstrap::v3::Admin>(pool, "envoy.config.bootstrap.v3.Admin");
    agree::<listener::v3::Listener>(pool, "envoy.config.listener.v3.Listener");
    agree::<listener::v3::FilterChain>(pool, "envoy.config.listener.v3.FilterChain");
    agree::<cluster::v3::Cluster>(pool, "envoy.config.cluster.v3.Cluster");
    agree::<endpoint::v3::ClusterLoadAssignment>(pool, "envoy.config.endpoint.v3.ClusterLoadAssignment");
    agree::<endpoint::v3::LbEndpoint>(pool, "envoy.config.endpoint.v3.LbEndpoint");
    agree::<core::v3::Address>(pool, "envoy.config.core.v3.Address");
    agree::<core::v3::HttpProtocolOptions>(pool, "envoy.config.core.v3.HttpProtocolOptions");
    agree::<core::v3::Http1ProtocolOptions>(pool, "envoy.config.core.v3.Http1ProtocolOptions");
    agree::<route::v3::RouteConfiguration>(pool, "envoy.config.route.v3.RouteConfiguration");
    agree::<route::v3::VirtualHost>(pool, "envoy.config.route.v3.VirtualHost");
    agree::<route::v3::Route>(pool, "envoy.config.route.v3.Route");
    agree::<route::v3::RouteMatch>(pool, "envoy.config.route.v3.RouteMatch");
    agree::<route::v3::RouteAction>(pool, "envoy.config.route.v3.RouteAction");
    agree::<accesslog::v3::AccessLog>(pool, "envoy.config.accesslog.v3.AccessLog");
    agree::<hcm::HttpConnectionManager>(
        pool,
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    );
    agree::<filters::router::v3::Router>(pool, "envoy.extensions.filters.http.router.v3.Router");
    agree::<filters::buffer::v3::Buffer>(pool, "envoy.extensions.filters.http.buffer.v3.Buffer");
    agree::<filters::fault::v3::HttpFault>(pool, "envoy.extensions.filters.http.fault.v3.HTTPFault");
    agree::<filters::ext_authz::v3::ExtAuthz>(pool, "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz");
    agree::<file::v3::FileAccessLog>(pool, "envoy.extensions.access_loggers.file.v3.FileAccessLog");
    agree::<stream::v3::StdoutAccessLog>(pool, "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog");
    agree::<load_balancing_policies::least_request::v3::LeastRequest>(
        pool,
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
    );
    agree::<upstreams::http::v3::HttpProtocolOptions>(
        pool,
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    );
}
