//! Decision 0002: the same work by aws-lc-rs and by ring. `cargo bench -p selvedge-perf --bench crypto`
//!
//! Both crates have one interface, so that each case is written once. Criterion prints the times; the table at the
//! end is the median of interleaved short rounds, as a ratio, since a shared machine drifts between two benches.
#![allow(clippy::disallowed_types, reason = "measures real time; no shard")]
#![expect(clippy::print_stdout, reason = "a bench prints")]
#![allow(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};

/// One case: its name, and bytes an iteration (0: none).
type Case = (String, u64, Box<dyn FnMut()>);

const RECORDS: [(usize, &str); 2] = [(1024, "1 KiB"), (16 * 1024, "16 KiB")];

macro_rules! cases {
    ($name:ident, $library:ident) => {
        fn $name() -> Vec<Case> {
            use $library::rand::SystemRandom;
            use $library::signature::{
                ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
                UnparsedPublicKey,
            };
            use $library::{aead, agreement, digest};

            let mut cases: Vec<Case> = Vec::new();
            for (cipher, algorithm) in
                [("AES-128-GCM", &aead::AES_128_GCM), ("ChaCha20-Poly1305", &aead::CHACHA20_POLY1305)]
            {
                for (bytes, size) in RECORDS {
                    let key = || {
                        let key = aead::UnboundKey::new(algorithm, &vec![7; algorithm.key_len()]);
                        aead::LessSafeKey::new(key.expect("a key of the right length"))
                    };
                    let nonce = || aead::Nonce::assume_unique_for_key([3; 12]);
                    let aad = || aead::Aad::from([23, 3, 3, 4, 0]);
                    let (sealer, opener) = (key(), key());
                    let mut record = vec![5; bytes];
                    let tag = sealer.seal_in_place_separate_tag(nonce(), aad(), &mut record).expect("sealed");
                    let sealed = [&record[..], tag.as_ref()].concat();
                    let mut plain = vec![5; bytes];
                    cases.push((
                        format!("{cipher} seal {size}"),
                        bytes as u64,
                        Box::new(move || {
                            let tag =
                                sealer.seal_in_place_separate_tag(nonce(), aad(), black_box(&mut plain));
                            black_box(tag.expect("sealed").as_ref()[0]);
                        }),
                    ));
                    let mut space = sealed.clone();
                    cases.push((
                        format!("{cipher} open {size}"),
                        bytes as u64,
                        Box::new(move || {
                            // The copy is the same for both; opening needs fresh bytes.
                            space.copy_from_slice(&sealed);
                            black_box(opener.open_in_place(nonce(), aad(), &mut space).expect("opened"));
                        }),
                    ));
                }
            }
            let random = SystemRandom::new();
            let peer = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &random).expect("a key");
            let theirs = peer.compute_public_key().expect("a public key").as_ref().to_vec();
            cases.push((
                "X25519 new key and agreement".to_owned(),
                0,
                Box::new(move || {
                    let mine = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &random);
                    let mine = mine.expect("a key");
                    black_box(mine.compute_public_key().expect("a public key"));
                    black_box(agree!($library, mine, &theirs));
                }),
            ));
            let random = SystemRandom::new();
            let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random);
            let document = document.expect("a key");
            let pair = pair!($library, &ECDSA_P256_SHA256_ASN1_SIGNING, document.as_ref(), &random);
            let public = pair.public_key().as_ref().to_vec();
            let message = [9u8; 130];
            let signature = pair.sign(&random, &message).expect("signed").as_ref().to_vec();
            cases.push((
                "ECDSA P-256 sign".to_owned(),
                0,
                Box::new(move || {
                    black_box(pair.sign(&random, black_box(&message)).expect("signed"));
                }),
            ));
            let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public);
            cases.push((
                "ECDSA P-256 verify".to_owned(),
                0,
                Box::new(move || public.verify(black_box(&message), &signature).expect("verified")),
            ));
            for (bytes, size) in RECORDS {
                let input = vec![1u8; bytes];
                cases.push((
                    format!("SHA-256 {size}"),
                    bytes as u64,
                    Box::new(move || {
                        black_box(digest::digest(&digest::SHA256, black_box(&input)));
                    }),
                ));
            }
            cases
        }
    };
}

/// The two places where the interfaces differ: the error type of an agreement, the random source of a key pair.
macro_rules! agree {
    (aws_lc_rs, $mine:expr, $theirs:expr) => {{
        let theirs = aws_lc_rs::agreement::UnparsedPublicKey::new(&aws_lc_rs::agreement::X25519, $theirs);
        aws_lc_rs::agreement::agree_ephemeral($mine, theirs, "no agreement", |secret| Ok(secret[0]))
            .expect("a shared secret")
    }};
    (ring, $mine:expr, $theirs:expr) => {{
        let theirs = ring::agreement::UnparsedPublicKey::new(&ring::agreement::X25519, $theirs);
        ring::agreement::agree_ephemeral($mine, &theirs, |secret| secret[0]).expect("a shared secret")
    }};
}

macro_rules! pair {
    (aws_lc_rs, $algorithm:expr, $document:expr, $random:expr) => {
        EcdsaKeyPair::from_pkcs8($algorithm, $document).expect("a key pair")
    };
    (ring, $algorithm:expr, $document:expr, $random:expr) => {
        EcdsaKeyPair::from_pkcs8($algorithm, $document, $random).expect("a key pair")
    };
}

cases!(aws_lc_cases, aws_lc_rs);
cases!(ring_cases, ring);

const ROUNDS: usize = 15;
const ROUND_NS: u128 = 10_000_000;

/// Nanoseconds of one call, over about 10 ms.
fn time(run: &mut dyn FnMut(), calls: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..calls {
        run();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
}

/// Calls that take about a round.
fn calls(run: &mut dyn FnMut()) -> u32 {
    let mut calls = 1;
    loop {
        let start = Instant::now();
        for _ in 0..calls {
            run();
        }
        if start.elapsed().as_nanos() * 2 > ROUND_NS {
            return calls;
        }
        calls *= 2;
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn ratios() {
    println!("| case | aws-lc-rs | ring | aws-lc-rs / ring |");
    println!("|---|---|---|---|");
    for ((name, _, mut ours), (_, _, mut other)) in aws_lc_cases().into_iter().zip(ring_cases()) {
        let (n, m) = (calls(&mut ours), calls(&mut other));
        let (mut a, mut b, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            a.push(time(&mut ours, n));
            b.push(time(&mut other, m));
            ratio.push(a[a.len() - 1] / b[b.len() - 1]);
        }
        println!(
            "| {name} | {:.2} us | {:.2} us | {:.2} |",
            median(&mut a) / 1e3,
            median(&mut b) / 1e3,
            median(&mut ratio)
        );
    }
}

fn main() {
    // `cargo test` runs benches with `--test`: then once each is enough.
    let mut criterion = Criterion::default().configure_from_args();
    for (library, cases) in [("aws-lc-rs", aws_lc_cases()), ("ring", ring_cases())] {
        for (name, bytes, mut run) in cases {
            let mut group = criterion.benchmark_group(&name);
            if bytes > 0 {
                group.throughput(Throughput::Bytes(bytes));
            }
            group.bench_function(library, |b| b.iter_batched(|| (), |()| run(), BatchSize::SmallInput));
            group.finish();
        }
    }
    criterion.final_summary();
    if !std::env::args().any(|a| a == "--test" || a == "--list") {
        ratios();
    }
}
