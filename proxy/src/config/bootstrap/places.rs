//! Where the fields of a configuration stand in its text, and the message that tells what is wrong with them.
//!
//! Invariant: a message names at most `limits::CONFIG_FAULTS_TOLD` fields. Binary and text protos have no places.

use super::snake;
use super::tree::{Node, Value};
use crate::limits;

/// The tree that a message was made of, when its lists are still those of the message.
#[derive(Debug, Clone, Default)]
pub struct Places(Option<Node>);

impl Places {
    pub(super) fn of(tree: Node) -> Places {
        Places(Some(tree))
    }

    /// One fault on the line of its announcement, several below it. Each is a path and a reason.
    pub fn tell<'a>(&self, faults: impl ExactSizeIterator<Item = (&'a str, &'a str)>) -> String {
        let count = faults.len();
        let told = faults.take(limits::CONFIG_FAULTS_TOLD).map(|(path, reason)| self.one(path, reason));
        let mut told: Vec<String> = told.collect();
        if count == 1 {
            return told.remove(0);
        }
        if count > told.len() {
            told.push(format!("and {} more", count - told.len()));
        }
        format!("{count} errors:\n  {}", told.join("\n  "))
    }

    fn one(&self, path: &str, reason: &str) -> String {
        let Some(tree) = &self.0 else { return format!("{reason} (at {path})") };
        let node = deepest(tree, path);
        format!("{reason} (at {path}, {})", node.key.unwrap_or(node.at))
    }
}

/// The value at a path such as `a.b[0].c[key]`, or the innermost that holds it.
pub(super) fn deepest<'a>(mut node: &'a Node, path: &str) -> &'a Node {
    let mut rest = path;
    while !rest.is_empty() {
        let (part, behind) = match rest.strip_prefix('[') {
            Some(index) => index.split_once(']').unwrap_or((index, "")),
            None => rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len())),
        };
        rest = behind.strip_prefix('.').unwrap_or(behind);
        let next = match &node.value {
            Value::Map(entries) => {
                entries.iter().find(|(k, _)| k == part || snake(k) == part).map(|(_, n)| n)
            }
            Value::List(list) => part.parse::<usize>().ok().and_then(|n| list.get(n)),
            _ => None,
        };
        let Some(next) = next else { return node };
        node = next;
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bootstrap::tree;

    const TEXT: &str = "a:\n- b: 1\n  cD: {x.y: 2}\n";

    #[test]
    fn faults_are_told_with_their_places() {
        let places = Places::of(tree::yaml(TEXT).expect("yaml"));
        for (path, tells) in [
            ("a[0].b", "why (at a[0].b, line 2, column 3)"),
            ("a[0].c_d[x.y]", "why (at a[0].c_d[x.y], line 3, column 8)"),
            ("a[0].missing.more", "why (at a[0].missing.more, line 2, column 3)"),
            ("a[7]", "why (at a[7], line 1, column 1)"),
        ] {
            assert_eq!(places.tell([(path, "why")].into_iter()), tells);
        }
        assert_eq!(Places::default().tell([("a", "why")].into_iter()), "why (at a)");
    }

    #[test]
    fn many_faults_are_told_shortly() {
        let faults = vec![("a", "why"); limits::CONFIG_FAULTS_TOLD + 2];
        let told = Places::default().tell(faults.iter().copied());
        assert_eq!(told.lines().count(), limits::CONFIG_FAULTS_TOLD + 2);
        assert!(told.starts_with("22 errors:\n  why (at a)\n") && told.ends_with("\n  and 2 more"), "{told}");
    }
}
