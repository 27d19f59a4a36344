//! Builds the descriptor set of the Envoy API from the protos that the `envoy-types` crate carries.
//!
//! The crate is found where cargo unpacked it, the compiler comes as a crate: nothing to install.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let protos = proto_root();
    let roots: Vec<PathBuf> = [
        "cel-spec/proto",
        "client_model",
        "data-plane-api",
        "googleapis",
        "opentelemetry-proto",
        "protoc-gen-validate",
        "ratelimit",
        "xds",
    ]
    .iter()
    .map(|root| protos.join(root))
    .collect();
    let mut files = Vec::new();
    for root in &roots {
        collect(root, root, &mut files);
    }
    files.sort();
    assert!(files.len() > 400, "found only {} protos below {}", files.len(), protos.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("descriptors.bin");
    let protoc = protoc_bin_vendored::protoc_bin_path().expect("a protoc for this platform");
    let include = protoc_bin_vendored::include_path().expect("the well-known types");
    let mut command = Command::new(protoc);
    command.arg("--include_imports").arg(format!("--descriptor_set_out={}", out.display()));
    for root in roots.iter().chain([&include]) {
        command.arg("-I").arg(root);
    }
    let status = command.args(&files).status().expect("protoc runs");
    assert!(status.success(), "protoc failed");
}

/// Where envoy-types keeps its protos: beside its sources, in cargo's registry or wherever cargo says.
fn proto_root() -> PathBuf {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cargo")));
    let sources = home.and_then(|h| fs::read_dir(h.join("registry/src")).ok());
    let package = format!("envoy-types-{}", locked_version());
    let in_registry = sources
        .into_iter()
        .flatten()
        .flatten()
        .map(|registry| registry.path().join(&package).join("proto"))
        .find(|proto| proto.is_dir());
    in_registry.unwrap_or_else(ask_cargo)
}

/// The version of envoy-types in the lock file.
fn locked_version() -> String {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let lock = fs::read_to_string(manifest.join("../Cargo.lock")).expect("the lock file");
    let mut lines = lock.lines().skip_while(|l| *l != "name = \"envoy-types\"");
    let version = lines.nth(1).and_then(|l| l.strip_prefix("version = ")).expect("envoy-types is locked");
    version.trim_matches('"').to_owned()
}

/// For vendored or patched sources.
fn ask_cargo() -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("set by cargo"))
        .args(["metadata", "--format-version", "1"])
        .current_dir(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"))
        .output()
        .expect("cargo metadata runs");
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "the protos of envoy-types were not found: {why}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|p| p["name"] == "envoy-types").expect("envoy-types is a dependency");
    let manifest = package["manifest_path"].as_str().expect("a path");
    Path::new(manifest).parent().expect("a folder").join("proto")
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of protos") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path.strip_prefix(root).expect("below its root").to_path_buf());
        }
    }
}
