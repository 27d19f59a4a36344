//! Header mutations of one level: what is removed and what is added.

use crate::access_log::format::Format;
use crate::http::header_id::IdSet;
use crate::http::message::Fields;

/// Mutations of one head: first the removals, then the values that replace, then those that are added.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    /// Names in lower case.
    pub remove: Box<[Box<[u8]>]>,
    pub add: Box<[HeaderAdd]>,
}

#[derive(Debug, Clone)]
pub struct HeaderAdd {
    /// In lower case.
    pub name: Box<[u8]>,
    pub value: Format,
    pub action: AppendAction,
    /// Add it even when the value is empty.
    pub keep_empty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}

impl HeaderMutations {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    /// Changes a head. `write` evaluates a format over the head as it is after the removals.
    //= envoy: HeaderParser: all values are made from the original fields; replacements come before additions
    pub fn apply<H>(
        &self,
        head: &mut H,
        joined: IdSet,
        fields: impl Fn(&mut H) -> &mut Fields,
        mut write: impl FnMut(&Format, &H, &mut Vec<u8>),
    ) {
        for name in &self.remove {
            fields(head).remove_named(name);
        }
        let mut values: Vec<(&HeaderAdd, Vec<u8>)> = Vec::new();
        let several = self.add.len() > 1;
        for add in &self.add {
            let exists = fields(head).get_named(&add.name).is_some();
            let wanted = match add.action {
                AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::AddIfAbsent => !exists,
                AppendAction::OverwriteIfExists => exists,
            };
            if !wanted {
                continue;
            }
            match add.value.as_literal() {
                Some(value) if !several => put(fields(head), joined, add, value),
                Some(value) => values.push((add, value.to_vec())),
                None => {
                    let mut value = Vec::new();
                    write(&add.value, head, &mut value);
                    values.push((add, value));
                }
            }
        }
        let (replacing, adding): (Vec<_>, Vec<_>) = values.into_iter().partition(|(add, _)| add.replaces());
        for (add, value) in replacing.iter().chain(&adding) {
            put(fields(head), joined, add, value);
        }
    }
}

impl HeaderAdd {
    fn replaces(&self) -> bool {
        matches!(self.action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists)
    }
}

fn put(fields: &mut Fields, joined: IdSet, add: &HeaderAdd, value: &[u8]) {
    if value.is_empty() && !add.keep_empty {
        return;
    }
    if add.replaces() {
        fields.remove_named(&add.name);
    }
    fields.join_or_append(&add.name, value, joined, b",");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_from_the_original_fields() {
        let add = |name: &str, value: &str, action| HeaderAdd {
            name: name.as_bytes().into(),
            value: Format::compile(value, false).expect("a format"),
            action,
            keep_empty: false,
        };
        let mutations = HeaderMutations {
            remove: Box::new([b"gone"[..].into()]),
            add: Box::new([
                add("a", "2", AppendAction::AppendIfExistsOrAdd),
                add("a", "3", AppendAction::AddIfAbsent),
                add("b", "new", AppendAction::OverwriteIfExistsOrAdd),
                add("c", "new", AppendAction::OverwriteIfExists),
                add("d", "", AppendAction::AppendIfExistsOrAdd),
                add("e", "%PROTOCOL%", AppendAction::AddIfAbsent),
            ]),
        };
        let mut fields = Fields::default();
        for (name, value) in [("Gone", "1"), ("A", "1"), ("B", "1")] {
            fields.append_named(name.as_bytes(), value.as_bytes());
        }
        mutations.apply(
            &mut fields,
            IdSet::default(),
            |f| f,
            |_, head, out| out.extend_from_slice(format!("{}", head.len()).as_bytes()),
        );
        let text: Vec<String> = fields
            .iter()
            .map(|(_, n, v)| format!("{}={}", String::from_utf8_lossy(n), String::from_utf8_lossy(v)))
            .collect();
        assert_eq!(text, ["A=1", "b=new", "a=2", "e=2"]);
    }
}
