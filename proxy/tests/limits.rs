//! Writes `docs/LIMITS.md` from the two `limits.rs`: each bound, why it is so, Envoy's default, what counts it.
//!
//! `UPDATE_EXPECT=1 cargo test --test limits` writes the page anew; without it a difference fails. In the comment of a
//! bound `envoy:` and `stat:` begin what goes into columns of their own.

use std::fmt::Write;

use expect_test::expect_file;

#[derive(Debug, PartialEq, Eq)]
struct Bound<'t> {
    name: &'t str,
    value: &'t str,
    why: String,
    envoy: String,
    stat: String,
}

/// The constants of a file with their comments.
fn bounds(text: &str) -> Vec<Bound<'_>> {
    let (mut out, mut comment) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(words) = line.strip_prefix("/// ") {
            comment.push_str(words);
            comment.push(' ');
            continue;
        }
        let said = std::mem::take(&mut comment);
        let Some((name, value)) = line
            .strip_prefix("pub const ")
            .and_then(|rest| rest.split_once(": "))
            .and_then(|(name, rest)| Some((name, rest.split_once(" = ")?.1.trim_end_matches(';'))))
        else {
            continue;
        };
        let (rest, stat) = said.split_once("stat: ").unwrap_or((&said, ""));
        let (why, envoy) = rest.split_once("envoy: ").unwrap_or((rest, ""));
        let tidy = |text: &str| text.trim().trim_end_matches('.').to_owned();
        out.push(Bound { name, value, why: tidy(why), envoy: tidy(envoy), stat: tidy(stat) });
    }
    out
}

fn page() -> String {
    let mut out = String::from(
        "# Bounds\n\nGenerated from `runtime/src/limits.rs` and `proxy/src/limits.rs` by `UPDATE_EXPECT=1 cargo test \
         --test limits`. These hold whatever the configuration says; what it may say itself (header bytes, connections, \
         breakers, buffers of filters, time-outs) has Envoy's fields and defaults. No entry in a column: Envoy has no \
         such bound, or nothing counts it.\n",
    );
    for (title, text) in [
        ("Of the runtime", include_str!("../../runtime/src/limits.rs")),
        ("Of the proxy", include_str!("../src/limits.rs")),
    ] {
        let _ = write!(
            out,
            "\n## {title}\n\n| bound | value | why | Envoy | counted by |\n|---|---|---|---|---|\n"
        );
        for Bound { name, value, why, envoy, stat } in bounds(text) {
            let _ = writeln!(out, "| `{name}` | `{value}` | {why} | {envoy} | {stat} |");
        }
    }
    out
}

#[test]
fn the_page_tells_the_bounds() {
    expect_file!["../../docs/LIMITS.md"].assert_eq(&page());
}

/// A number without a reason is a guess.
#[test]
fn each_bound_says_why() {
    let text = "/// Bytes of a thing. envoy: 3. stat: `a.b`\npub const THING_BYTES: usize = 1 << 3;\n";
    let thing = Bound {
        name: "THING_BYTES",
        value: "1 << 3",
        why: "Bytes of a thing".to_owned(),
        envoy: "3".to_owned(),
        stat: "`a.b`".to_owned(),
    };
    assert_eq!(bounds(text), [thing]);
    let all = [include_str!("../../runtime/src/limits.rs"), include_str!("../src/limits.rs")];
    for bound in all.into_iter().flat_map(bounds) {
        assert!(bound.why.len() > 20, "{}: why so much?", bound.name);
    }
}
