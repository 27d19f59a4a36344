//! Header mutations of one level: what is removed and what is added.

/// Mutations of one head, in their order: first the removals.
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
    pub value: HeaderValue,
    pub action: AppendAction,
    /// Add it even when the value is empty.
    pub keep_empty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderValue {
    Plain(Box<[u8]>),
    /// Contains command operators: compiled by `access_log::format`.
    Format(Box<str>),
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
}
