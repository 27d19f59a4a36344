//! Replays what fuzzing found: each file of `fuzz/corpus/TARGET/` through its target, on any toolchain.
//!
//! A file that libFuzzer named is named by what is in it: one that was changed since is refused. Files that a person
//! wrote are called `seed-...`.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use selvedge::fuzz::TARGETS;

/// Files of one target, and bytes of one file: corpora stay small.
const FILES_MAX: usize = 120;
const BYTES_MAX: usize = 16 * 1024;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

#[test]
fn every_file_of_a_corpus_passes() {
    let mut wrong = Vec::new();
    for (name, target) in TARGETS {
        let files = corpus(&fuzz().join("corpus").join(name)).unwrap_or_else(|e| panic!("{e}"));
        for (path, bytes) in files {
            if catch_unwind(AssertUnwindSafe(|| target(&bytes))).is_err() {
                wrong.push(format!("cargo +nightly fuzz run {name} {}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a bug that was found before is back:\n{}", wrong.join("\n"));
}

/// The one list names the targets, their files, their entries in the manifest and their corpora.
#[test]
fn the_list_is_complete() {
    let listed: Vec<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(listed.is_sorted(), "{listed:?}");
    let names = |dir: &str| {
        let entries = fs::read_dir(fuzz().join(dir)).unwrap_or_else(|e| panic!("fuzz/{dir}: {e}"));
        let stem = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|e| stem(e.expect("an entry").path())).collect();
        names.sort();
        names
    };
    assert_eq!(names("fuzz_targets"), listed);
    assert_eq!(names("corpus"), listed);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let (_, bins) = manifest.split_once("[[bin]]").expect("binaries");
    let bins: Vec<&str> =
        bins.lines().filter_map(|l| l.strip_prefix("name = \"")?.strip_suffix('"')).collect();
    assert_eq!(bins, listed);
}

/// The files of a corpus, by name. `Err`: what is wrong with which one.
fn corpus(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut paths: Vec<PathBuf> =
        entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>().map_err(|e| e.to_string())?;
    paths.sort();
    if paths.is_empty() {
        return Err(format!("{}: an empty corpus: nothing would be tested", dir.display()));
    }
    if paths.len() > FILES_MAX {
        return Err(format!("{}: {} files, {FILES_MAX} at most: minimise it", dir.display(), paths.len()));
    }
    paths.into_iter().map(|path| entry(&path).map(|bytes| (path, bytes))).collect()
}

fn entry(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |why: String| Err(format!("{}: {why}", path.display()));
    let bytes = match fs::read(path) {
        Ok(bytes) if bytes.len() <= BYTES_MAX => bytes,
        Ok(bytes) => return wrong(format!("{} bytes, {BYTES_MAX} at most: minimise it", bytes.len())),
        Err(error) => return wrong(format!("cannot be read: {error}")),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.starts_with("seed-") {
        return Ok(bytes);
    }
    let (said, is) = (name.rsplit('-').next().unwrap_or_default(), sha1(&bytes));
    if said.len() != is.len() || !said.bytes().all(|b| b.is_ascii_hexdigit()) {
        return wrong("is named neither seed-... nor by the SHA-1 of its bytes".to_owned());
    }
    if said != is {
        return wrong(format!("is corrupt: the SHA-1 of its bytes is {is}"));
    }
    Ok(bytes)
}

/// The digest by which libFuzzer names files, in hex. //= rfc3174
fn sha1(bytes: &[u8]) -> String {
    let mut state: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut padded = [bytes, &[0x80]].concat();
    padded.resize((bytes.len() + 9).next_multiple_of(64) - 8, 0);
    padded.extend_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());
    for block in padded.chunks(64) {
        let mut words: Vec<u32> =
            block.chunks(4).map(|w| w.iter().fold(0, |n, b| n << 8 | u32::from(*b))).collect();
        for n in 16..80 {
            words.push((words[n - 3] ^ words[n - 8] ^ words[n - 14] ^ words[n - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (n, word) in words.iter().enumerate() {
            let (mixed, constant) = match n {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let sum = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(constant);
            (a, b, c, d, e) = (sum.wrapping_add(*word), a, b.rotate_left(30), c, d);
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *old = old.wrapping_add(new);
        }
    }
    state.iter().map(|word| format!("{word:08x}")).collect()
}

#[test]
fn corrupt_corpora_are_refused() {
    let dir = std::env::temp_dir().join(format!("selvedge-corpus-{}", std::process::id()));
    let said = |name: &str, bytes: &[u8]| {
        let _may_not_be_there = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("a folder");
        if !name.is_empty() {
            fs::write(dir.join(name), bytes).expect("a file");
        }
        corpus(&dir).map(|files| files.len()).map_err(|e| e.replace(&*dir.to_string_lossy(), "DIR"))
    };
    const ABC: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";
    assert_eq!(said(ABC, b"abc"), Ok(1));
    assert_eq!(said(&format!("crash-{ABC}"), b"abc"), Ok(1));
    assert_eq!(said("seed-any", b"abd"), Ok(1));
    let err = |text: String| Err(text);
    let other = sha1(b"abd");
    assert_eq!(said(ABC, b"abd"), err(format!("DIR/{ABC}: is corrupt: the SHA-1 of its bytes is {other}")));
    let unnamed = "DIR/x: is named neither seed-... nor by the SHA-1 of its bytes";
    assert_eq!(said("x", b"abc"), err(unnamed.to_owned()));
    assert_eq!(said("", b""), err("DIR: an empty corpus: nothing would be tested".to_owned()));
    let large = "DIR/seed-x: 16385 bytes, 16384 at most: minimise it";
    assert_eq!(said("seed-x", &[0; BYTES_MAX + 1]), err(large.to_owned()));
    fs::create_dir_all(dir.join("folder")).expect("a folder");
    let errors = corpus(&dir).expect_err("a folder is no file");
    assert!(errors.contains("folder: cannot be read: "), "{errors}");
    fs::remove_dir_all(&dir).expect("it is ours");
    assert!(corpus(&dir).expect_err("it is gone").contains("No such file"));
}
