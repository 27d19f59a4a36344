//! Configuration files: form by name, merge, and files that nobody should trust.

use std::net::TcpListener;

use crate::process::{ANY, Dir, Ended, Proxy, bootstrap, listener, nowhere, run};

fn validate(dir: &Dir, name: &str, content: impl AsRef<[u8]>) -> Ended {
    run(&["--mode", "validate", "-c", &dir.write(name, content)], b"")
}

#[test]
fn the_name_decides_the_form() {
    let dir = Dir::new();
    let (yaml, json, text) = ("node: {id: x}\n", "{\"node\": {\"id\": \"x\"}}", "node { id: \"x\" }");
    let wire = b"\x0a\x03\x0a\x01x";
    for (name, content, good) in [
        ("a.yaml", yaml.as_bytes(), true),
        ("a.yml", yaml.as_bytes(), true),
        ("a.YAML", yaml.as_bytes(), true),
        ("a.json", json.as_bytes(), true),
        ("a.yaml", json.as_bytes(), true),
        ("noext", json.as_bytes(), true),
        ("a.conf", json.as_bytes(), true),
        ("a.conf", yaml.as_bytes(), false),
        ("a.json", yaml.as_bytes(), false),
        ("a.pb", &wire[..], true),
        ("a.pb_text", text.as_bytes(), true),
        ("a.pb_text", yaml.as_bytes(), false),
        ("a.pb", text.as_bytes(), false),
        ("a.yaml", &wire[..], false),
    ] {
        let ended = validate(&dir, name, content);
        assert_eq!(ended.code, Some(i32::from(!good)), "{name}: {}{}", ended.stdout, ended.stderr);
    }
    let ended = run(&["--mode", "validate", "-c", "/dev/stdin"], json.as_bytes());
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "configuration '/dev/stdin' OK\n"));
}

/// Scalars of the overlay win, lists grow.
#[test]
fn config_yaml_is_merged_over_the_file() {
    let dir = Dir::new();
    let file = dir.write("a.yaml", "static_resources: {clusters: [{name: x}]}");
    for (overlay, code, tells) in [
        ("static_resources: {clusters: [{name: other}]}", 0, "OK"),
        ("staticResources: {clusters: [{name: x}]}", 1, "duplicate cluster 'x'"),
        ("static_resources: {clusters: [{nme: other}]}", 1, "--config-yaml: line 1, column 32: "),
    ] {
        let ended = run(&["--mode", "validate", "-c", &file, "--config-yaml", overlay], b"");
        let told = ended.stdout + &ended.stderr;
        assert!(ended.code == Some(code) && told.contains(tells), "{overlay}: {:?} {told}", ended.code);
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let dir = Dir::new();
    let deep = |open: &str, close: &str| open.repeat(5000) + &close.repeat(5000);
    let mut bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (from, to) in ('a'..'i').zip('b'..='i') {
        bomb += &format!("{to}: &{to} [{}]\n", vec![format!("*{from}"); 9].join(","));
    }
    for (name, content, tells) in [
        (
            "unknown.yaml",
            "static_resources:\n  clustres: []\n".to_owned(),
            "line 2, column 3: static_resources.clustres: no such field 'clustres' in envoy.config.bootstrap.v3.Bootstrap.StaticResources, did you mean 'clusters'?",
        ),
        ("unknown.json", "{\n \"static_resources\": {\"clustres\": []}}".to_owned(), "line 2, column 23"),
        (
            "type.yaml",
            "node:\n  id: 7\n".to_owned(),
            "line 2, column 7: node.id: expected a string, found a number",
        ),
        ("yes.yaml", "node: {id: n}".to_owned(), "node.id: expected a string, found true or false"),
        (
            "enum.yaml",
            "static_resources: {clusters: [{name: x, type: STATICK}]}".to_owned(),
            "did you mean 'STATIC'?",
        ),
        (
            "refused.yaml",
            "hds_config: {}".to_owned(),
            "envoy.config.bootstrap.v3.Bootstrap.hds_config is not implemented yet (at hds_config, line 1, column 1)",
        ),
        (
            "extension.yaml",
            "static_resources: {clusters: [{name: x, transport_socket: {name: raw, typed_config: {\"@type\": a/envoy.extensions.transport_sockets.raw_bufer.v3.RawBuffer}}}]}".to_owned(),
            "did you mean 'envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer'?",
        ),
        (
            "several.yaml",
            "hds_config: {}\nnode: {id: x}\nenable_dispatcher_stats: true\n".to_owned(),
            "2 errors:\n  envoy.config",
        ),
        ("tab.yaml", "a:\n\tb: 1\n".to_owned(), "line 2"),
        ("twice.yaml", "node: {}\nnode: {}\n".to_owned(), "line 2, column 1: 'node' is given twice"),
        ("empty.yaml", String::new(), "there is nothing in it"),
        ("bomb.yaml", bomb, "through its aliases"),
        ("cycle.yaml", "node: &x {metadata: {a: *x}}".to_owned(), "an alias of a value that contains it"),
        ("deep.yaml", deep("[", "]"), "line 1, column 256: recursion limit exceeded"),
        (
            "deep-block.yaml",
            (0..200).map(|n| " ".repeat(n) + "a:\n").collect(),
            "line 101, column 101: nested deeper than",
        ),
        ("deep.json", deep("[", "]"), "nested deeper than"),
        ("deep.pb_text", deep("node{", "}"), "line 1: nested deeper than"),
        ("cut.json", "{\"node\": {\"id\": \"x\"".to_owned(), "line 1, column 20"),
        ("cut.pb", "\u{a}\u{7f}x".to_owned(), "as a binary protobuf"),
        ("zeros.json", "\0\0\0\0".to_owned(), "line 1, column 1: expected a value"),
    ] {
        let ended = validate(&dir, name, content);
        assert_eq!(ended.code, Some(1), "{name}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stderr.contains("error initializing configuration"), "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(tells), "{name} does not tell {tells:?}: {}", ended.stderr);
        assert!(ended.stderr.len() < 4096, "{name} tells too much: {} bytes", ended.stderr.len());
    }
    let ended = validate(&dir, "latin.yaml", b"node: {id: \xe9}");
    assert!(ended.code == Some(1) && ended.stderr.contains("not UTF-8 at byte 11"), "{}", ended.stderr);
}

/// Every shorter form of a good binary file is refused or means less; none crashes.
#[test]
fn damaged_binary_files() {
    let dir = Dir::new();
    let whole = b"\x0a\x09\x0a\x03one\x12\x02cl\x12\x09\x12\x07\x0a\x05first";
    assert_eq!(validate(&dir, "whole.pb", whole).code, Some(0));
    for (name, bytes) in [
        ("length.pb", &b"\x0a\xff\xff\xff\xff\x0fone"[..]),
        ("wire-type.pb", b"\x0f\x01"),
        ("field-zero.pb", b"\x02\x01x"),
        ("varint.pb", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("cut.pb", &whole[..whole.len() - 2]),
        ("not-utf8.pb", b"\x0a\x04\x0a\x02\xff\xfe"),
    ] {
        let ended = validate(&dir, name, bytes);
        assert!(
            ended.code == Some(1) && ended.stderr.contains("as a binary protobuf"),
            "{name}: {:?} {}",
            ended.code,
            ended.stderr
        );
    }
}

/// A pipe that never ends is not read for ever.
#[test]
fn an_endless_file() {
    let ended = run(&["--mode", "validate", "-c", "/dev/zero"], b"");
    assert!(ended.code == Some(1) && ended.stderr.contains("is larger than"), "{}", ended.stderr);
}

#[test]
fn unknown_fields_pass_where_the_flag_allows_them() {
    let dir = Dir::new();
    let config = dir.write("a.yaml", "node: {id: x, shoe_size: 43}\nno_such: {}\n");
    for (flags, code) in [
        (&[][..], 1),
        (&["--allow-unknown-static-fields"], 0),
        (&["--allow-unknown-fields"], 0),
        (&["--reject-unknown-dynamic-fields"], 1),
    ] {
        let args = [&["--mode", "validate", "-c", &config], flags].concat();
        let ended = run(&args, b"");
        assert_eq!(ended.code, Some(code), "{flags:?}: {}{}", ended.stdout, ended.stderr);
        for told in [
            "[warning][config] ",
            "Unknown field: line 1, column 15: node.shoe_size: no such field 'shoe_size' in ",
            "Unknown field: line 2, column 1: no_such: ",
        ] {
            assert_eq!(ended.stderr.contains(told), code == 0, "{flags:?}: {}", ended.stderr);
        }
    }
}

/// A binary file names fields by number: 2047 in the bootstrap, 2046 in its node.
#[test]
fn unknown_fields_of_a_binary_file() {
    let dir = Dir::new();
    let config = dir.write("a.pb", b"\xf8\x7f\x01\xf8\x7f\x02\x0a\x03\xf0\x7f\x01");
    let outer = "type envoy.config.bootstrap.v3.Bootstrap(root) with unknown field set {2047, 2047}";
    let inner = "type envoy.config.core.v3.Node(node) with unknown field set {2046}";
    let ended = run(&["--mode", "validate", "-c", &config], b"");
    let reason = format!("Protobuf message ({outer}) has unknown fields");
    assert!(ended.code == Some(1) && ended.stderr.contains(&reason), "{:?} {}", ended.code, ended.stderr);
    let ended = run(&["--mode", "validate", "--allow-unknown-static-fields", "-c", &config], b"");
    let both = [outer, inner].iter().all(|m| ended.stderr.contains(&format!("Unknown field: {m}\n")));
    assert!(ended.code == Some(0) && both, "{:?} {}", ended.code, ended.stderr);
}

#[test]
fn unknown_fields_are_counted() {
    let config = bootstrap("no_such: 1", &[listener("main", ANY, "no_such: {}")], nowhere());
    let proxy = Proxy::start(&config, &["--allow-unknown-static-fields"]);
    assert_eq!(proxy.stat("server.static_unknown_fields"), 2);
    assert_eq!(proxy.stat("server.dynamic_unknown_fields"), 0);
}

#[test]
fn optional_filters_that_are_not_here_are_left_out_with_a_warning() {
    let dir = Dir::new();
    let lua = "{name: script, is_optional: OPTIONAL, typed_config: {'@type': type.googleapis.com/envoy.extensions\
        .filters.http.lua.v3.Lua}}";
    let plain = bootstrap("", &[listener("main", ANY, "")], nowhere());
    for (optional, code, told) in [
        ("true", 0, "Didn't find a registered factory for the optional http filter script\n"),
        ("false", 1, "envoy.extensions.filters.http.lua.v3.Lua is not implemented yet (at "),
    ] {
        let filter = format!("          - {}\n          - name: router", lua.replace("OPTIONAL", optional));
        let config = plain.replacen("          - name: router", &filter, 1);
        let ended = validate(&dir, "a.yaml", config);
        assert!(ended.code == Some(code) && ended.stderr.contains(told), "{optional}: {}", ended.stderr);
    }
}

/// Checking a configuration takes no port.
#[test]
fn validate_binds_nothing() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let address = format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let config = bootstrap("", &[listener("main", &address, "")], nowhere()).replacen(ANY, &address, 1);
    let ended = run(&["--mode", "validate", "--config-yaml", &config], b"");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "configuration '' OK\n"), "{}", ended.stderr);
}
