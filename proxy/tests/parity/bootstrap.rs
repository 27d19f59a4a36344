//! Fills bootstrap templates: `#[slot/]` is a place for text, `#[slot]` ... `#[/slot]` one with a default,
//! `${name}` a value of this run. Text takes the indentation of its slot.

use std::fs;
use std::path::Path;

use crate::scenario::Slots;

pub fn fill(template: &Path, slots: &Slots, values: &[(String, String)]) -> String {
    let text = fs::read_to_string(template).unwrap_or_else(|e| panic!("{}: {e}", template.display()));
    let mut out = place(&text, slots);
    for name in slots.keys() {
        let known = text.contains(&format!("#[{name}]")) || text.contains(&format!("#[{name}/]"));
        assert!(known, "{} has no slot {name}", template.display());
    }
    for (name, value) in values {
        out = out.replace(&format!("${{{name}}}"), value);
    }
    out
}

fn place(text: &str, slots: &Slots) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let marker = line.trim_start();
        let Some(name) = marker.strip_prefix("#[").and_then(|m| m.strip_suffix(']')) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let indent = &line[..line.len() - marker.len()];
        let default = match name.strip_suffix('/') {
            Some(_) => String::new(),
            None => {
                let end = format!("#[/{name}]");
                lines.by_ref().take_while(|l| l.trim_start() != end).map(|l| format!("{l}\n")).collect()
            }
        };
        match slots.get(name.trim_end_matches('/')) {
            Some(text) => text.lines().for_each(|line| {
                out.push_str(indent);
                out.push_str(line);
                out.push('\n');
            }),
            None => out.push_str(&place(&default, slots)),
        }
    }
    out
}

#[test]
fn slots_are_filled() {
    let slots = Slots::from([("inner".to_owned(), "x: 1\ny: 2\n".to_owned())]);
    assert_eq!(
        place("a:\n  #[inner/]\n  #[more]\n  z: 3\n  #[/more]\n", &slots),
        "a:\n  x: 1\n  y: 2\n  z: 3\n"
    );
    assert_eq!(place("#[outer]\n#[inner]\n0\n#[/inner]\n#[/outer]\n", &slots), "x: 1\ny: 2\n");
}
