//! One message type for all versions of HTTP: heads whose fields are ranges of the bytes that were received.
//!
//! Invariant: every span lies in the head's block or in its arena. Order and case are kept as received; lower
//! case is the encoder's work. `Host` is not among the fields of a request: it is its authority.

use selvedge_runtime::Chunk;

pub use crate::http::header_id::HeaderId;
use crate::http::header_id::IdSet;

/// A range of the received block, or of the arena of what was written since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// A place in the received block: a head is bounded far below 2 GiB.
    fn received((start, end): (usize, usize)) -> Span {
        let short = |n: usize| u32::try_from(n).unwrap_or(0);
        Span { start: short(start), len: short(end - start) }
    }
}

const IN_ARENA: u32 = 1 << 31;
/// A name that the field's id says: it is stored nowhere.
const BY_ID: u32 = u32::MAX;
/// Room for what a proxy commonly writes into a head; made at the first write.
const ARENA_BYTES: usize = 192;
const NOWHERE: Span = Span { start: IN_ARENA, len: 0 };

#[derive(Debug, Clone, Copy)]
struct Field {
    name: Span,
    value: Span,
    id: HeaderId,
}

/// Header fields in their order.
#[derive(Debug, Clone)]
pub struct Fields {
    block: Chunk,
    arena: Vec<u8>,
    list: Vec<Field>,
    /// The ids in the list: most questions are about fields that are not there.
    ids: IdSet,
}

impl Default for Fields {
    fn default() -> Self {
        Fields::new(Chunk::from_static(b""))
    }
}

impl Fields {
    pub fn new(block: Chunk) -> Fields {
        Fields { block, arena: Vec::new(), list: Vec::with_capacity(16), ids: IdSet::default() }
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let start = (span.start & !IN_ARENA) as usize;
        let end = start + span.len as usize;
        if span.start & IN_ARENA == 0 { &self.block[start..end] } else { &self.arena[start..end] }
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        if self.arena.capacity() == 0 {
            self.arena.reserve(ARENA_BYTES.max(bytes.len()));
        }
        let start = u32::try_from(self.arena.len()).unwrap_or(IN_ARENA);
        assert!(start < IN_ARENA, "a head is below 2 GiB");
        self.arena.extend_from_slice(bytes);
        Span { start: start | IN_ARENA, len: u32::try_from(bytes.len()).expect("a value is below 4 GiB") }
    }

    /// Adds a field that lies in the received block, at `name` and `value` within it.
    pub(crate) fn push_received(&mut self, id: HeaderId, name: (usize, usize), value: (usize, usize)) {
        self.push(Field { name: Span::received(name), value: Span::received(value), id });
    }

    fn push(&mut self, field: Field) {
        self.ids.add(field.id);
        self.list.push(field);
    }

    fn name(&self, field: &Field) -> &[u8] {
        if field.name.start == BY_ID { field.id.name().as_bytes() } else { self.bytes(field.name) }
    }

    fn named(field: &Field, id: HeaderId, this: &Fields, name: &[u8]) -> bool {
        field.id == id && (id.is_exact() || this.name(field).eq_ignore_ascii_case(name))
    }

    pub fn get(&self, id: HeaderId) -> Option<&[u8]> {
        if !self.ids.has(id) {
            return None;
        }
        self.list.iter().find(|f| f.id == id).map(|f| self.bytes(f.value))
    }

    /// The value of the first field of that name, in any case.
    pub fn get_named(&self, name: &[u8]) -> Option<&[u8]> {
        let id = HeaderId::of(name);
        if !self.ids.has(id) {
            return None;
        }
        self.list.iter().find(|f| Self::named(f, id, self, name)).map(|f| self.bytes(f.value))
    }

    pub fn all(&self, id: HeaderId) -> impl Iterator<Item = &[u8]> {
        self.list.iter().filter(move |f| f.id == id).map(|f| self.bytes(f.value))
    }

    pub fn all_named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let id = HeaderId::of(name);
        self.list.iter().filter(move |f| Self::named(f, id, self, name)).map(|f| self.bytes(f.value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (HeaderId, &[u8], &[u8])> {
        self.list.iter().map(|f| (f.id, self.name(f), self.bytes(f.value)))
    }

    pub fn contains(&self, id: HeaderId) -> bool {
        self.ids.has(id)
    }

    /// Whether one of these is there.
    pub fn contains_any(&self, ids: IdSet) -> bool {
        self.ids.meets(ids)
    }

    /// Replaces the first field of that name and drops the others, or adds one.
    pub fn set(&mut self, id: HeaderId, value: &[u8]) {
        self.set_known(id, id.name().as_bytes(), value);
    }

    pub fn set_named(&mut self, name: &[u8], value: &[u8]) {
        self.set_known(HeaderId::of(name), name, value);
    }

    fn set_known(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let first = if self.ids.has(id) {
            self.list.iter().position(|f| Self::named(f, id, self, name))
        } else {
            None
        };
        let Some(at) = first else {
            self.append_known(id, name, value);
            return;
        };
        self.list[at].value = self.store(value);
        let (kept, rest) = (at + 1, self.list.len());
        if self.list[kept..rest].iter().any(|f| f.id == id) {
            let mut tail: Vec<Field> = self.list.split_off(kept);
            tail.retain(|f| !Self::named(f, id, self, name));
            self.list.append(&mut tail);
        }
    }

    pub fn append(&mut self, id: HeaderId, value: &[u8]) {
        self.append_known(id, id.name().as_bytes(), value);
    }

    pub fn append_named(&mut self, name: &[u8], value: &[u8]) {
        self.append_known(HeaderId::of(name), name, value);
    }

    fn append_known(&mut self, id: HeaderId, name: &[u8], value: &[u8]) {
        let name = if id.is_exact() {
            Span { start: BY_ID, len: u32::from(id.name_bytes()) }
        } else {
            self.store(name)
        };
        let value = self.store(value);
        self.push(Field { name, value, id });
    }

    /// Adds to the value of a field that is there and of those that are `joined`, else adds a field.
    pub fn join_or_append(&mut self, name: &[u8], value: &[u8], joined: IdSet, separator: &[u8]) {
        let id = HeaderId::of(name);
        match self.list.iter().position(|f| f.id == id) {
            Some(at) if joined.has(id) => self.join(at, value, separator),
            _ => self.append_named(name, value),
        }
    }

    fn join(&mut self, at: usize, value: &[u8], separator: &[u8]) {
        let old = self.list[at].value;
        let text = match (self.bytes(old), value) {
            (_, b"") => return,
            (b"", value) => value.to_vec(),
            (old, value) => [old, separator, value].concat(),
        };
        self.list[at].value = self.store(&text);
    }

    /// Makes one field of several of a name that is `joined`, where the first of them stands.
    //= envoy: O(1) headers of the header map
    pub fn join_repeated(&mut self, joined: IdSet) {
        let (mut seen, mut repeated) = (IdSet::default(), IdSet::default());
        for field in &self.list {
            if seen.has(field.id) {
                repeated.add(field.id);
            }
            seen.add(field.id);
        }
        if !repeated.meets(joined) {
            return;
        }
        let list = std::mem::take(&mut self.list);
        for field in list {
            let first = self.list.iter().position(|f| f.id == field.id);
            match first.filter(|_| joined.has(field.id)) {
                None => self.list.push(field),
                Some(at) => {
                    let value = self.bytes(field.value).to_vec();
                    self.join(at, &value, b",");
                }
            }
        }
    }

    pub fn remove(&mut self, id: HeaderId) {
        self.remove_ids(IdSet::of(&[id]));
    }

    pub fn remove_named(&mut self, name: &[u8]) {
        let id = HeaderId::of(name);
        if !self.ids.has(id) {
            return;
        }
        let mut list = std::mem::take(&mut self.list);
        list.retain(|f| !Self::named(f, id, self, name));
        self.keep(list);
    }

    pub fn remove_ids(&mut self, ids: IdSet) {
        if self.ids.meets(ids) {
            let mut list = std::mem::take(&mut self.list);
            list.retain(|f| !ids.has(f.id));
            self.keep(list);
        }
    }

    fn keep(&mut self, list: Vec<Field>) {
        self.ids = IdSet::default();
        list.iter().for_each(|f| self.ids.add(f.id));
        self.list = list;
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Bytes of all names and values, as limits and logs count them.
    pub fn byte_size(&self) -> usize {
        self.list.iter().map(|f| (f.name.len + f.value.len) as usize).sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    H10,
    H11,
}

impl Version {
    pub fn text(self) -> &'static str {
        match self {
            Version::H10 => "HTTP/1.0",
            Version::H11 => "HTTP/1.1",
        }
    }
}

/// How the end of a message's body is known. Decided once; the message is written from this, never by copying
/// framing fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    /// Until the connection closes (responses), or for ever (upgraded connections).
    UntilClose,
}

/// A request's start line and fields.
#[derive(Debug, Clone)]
pub struct RequestHead {
    pub version: Version,
    method: Span,
    path: Span,
    authority: Option<Span>,
    pub fields: Fields,
}

impl RequestHead {
    pub(crate) fn received(
        version: Version,
        fields: Fields,
        method: (usize, usize),
        path: (usize, usize),
    ) -> Self {
        let (method, path) = (Span::received(method), Span::received(path));
        RequestHead { version, method, path, authority: None, fields }
    }

    /// A request of our own.
    pub fn new(method: &[u8], authority: &[u8], path: &[u8]) -> RequestHead {
        let fields = Fields::default();
        let mut head =
            RequestHead { version: Version::H11, method: NOWHERE, path: NOWHERE, authority: None, fields };
        head.method = head.fields.store(method);
        head.set_path(path);
        head.set_authority(authority);
        head
    }

    /// Stands where no request could be read, e.g. in the log of a malformed one.
    pub fn unread() -> RequestHead {
        let (block, ids) = (Chunk::from_static(b""), IdSet::default());
        let fields = Fields { block, arena: Vec::new(), list: Vec::new(), ids };
        RequestHead { version: Version::H11, method: NOWHERE, path: NOWHERE, authority: None, fields }
    }

    pub fn method(&self) -> &[u8] {
        self.fields.bytes(self.method)
    }

    /// Path and query.
    pub fn path(&self) -> &[u8] {
        self.fields.bytes(self.path)
    }

    pub fn authority(&self) -> Option<&[u8]> {
        self.authority.map(|span| self.fields.bytes(span))
    }

    pub fn set_path(&mut self, path: &[u8]) {
        self.path = self.fields.store(path);
    }

    pub fn set_authority(&mut self, authority: &[u8]) {
        self.authority = Some(self.fields.store(authority));
    }

    pub(crate) fn set_authority_received(&mut self, at: (usize, usize)) {
        self.authority = Some(Span::received(at));
    }

    /// Takes the value of a received field as the authority, without a copy.
    pub(crate) fn take_host(&mut self) {
        let mut hosts = self.fields.list.iter().filter(|f| f.id == HeaderId::Host);
        let (first, second) = (hosts.next().map(|f| f.value), hosts.next().is_some());
        let Some(first) = first else { return };
        if second {
            // envoy: several Host fields are one value, joined with a comma
            let named = self.fields.all(HeaderId::Host).filter(|v| !v.is_empty());
            let joined = named.collect::<Vec<_>>().join(&b","[..]);
            if self.authority.is_none() {
                self.set_authority(&joined);
            }
        } else if self.authority.is_none() {
            self.authority = Some(first);
        }
        self.fields.remove(HeaderId::Host);
    }

    /// Bytes of the head as Envoy counts them: pseudo-fields included.
    pub fn byte_size(&self) -> usize {
        let authority = self.authority.map_or(0, |a| a.len as usize + ":authority".len());
        let path = self.path.len as usize + ":path".len();
        authority
            + path
            + self.method.len as usize
            + ":method".len()
            + ":schemehttp".len()
            + self.fields.byte_size()
    }

    /// Bytes of the head as it was received.
    pub fn wire_bytes(&self) -> usize {
        self.fields.block.len()
    }

    pub fn is_method(&self, method: &[u8]) -> bool {
        self.method() == method
    }
}

/// A response's status and fields.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub version: Version,
    pub status: u16,
    pub fields: Fields,
}

impl ResponseHead {
    pub fn new(status: u16) -> ResponseHead {
        ResponseHead { version: Version::H11, status, fields: Fields::default() }
    }

    /// Bytes of the head as Envoy counts them: the status included.
    pub fn byte_size(&self) -> usize {
        ":status".len() + 3 + self.fields.byte_size()
    }
}

/// Fields that come after the body.
#[derive(Debug, Clone, Default)]
pub struct Trailers(pub Fields);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_places() {
        let mut fields = Fields::default();
        fields.append_named(b"A", b"1");
        fields.append(HeaderId::Via, b"x");
        fields.append_named(b"a", b"2");
        fields.append_named(b"B", b"3");
        fields.set_named(b"a", b"4");
        let list: Vec<_> = fields.iter().map(|(_, n, v)| (n.to_vec(), v.to_vec())).collect();
        assert_eq!(
            list,
            [
                (b"A".to_vec(), b"4".to_vec()),
                (b"via".to_vec(), b"x".to_vec()),
                (b"B".to_vec(), b"3".to_vec())
            ]
        );
        fields.remove_named(b"b");
        assert_eq!((fields.len(), fields.get_named(b"b"), fields.byte_size()), (2, None, 6));
    }

    #[test]
    fn repeated_fields_are_joined_where_the_first_stands() {
        let mut fields = Fields::default();
        for (name, value) in
            [("Via", "1"), ("x", "1"), ("Accept", ""), ("via", "2"), ("X", "2"), ("accept", "3")]
        {
            fields.append_named(name.as_bytes(), value.as_bytes());
        }
        let joined = IdSet::of(&[HeaderId::Via, HeaderId::Accept]);
        fields.join_repeated(joined);
        fields.join_or_append(b"VIA", b"4", joined, b", ");
        fields.join_or_append(b"x", b"5", joined, b", ");
        let text: Vec<_> =
            fields.iter().map(|(_, n, v)| [n, b"=", v].concat().escape_ascii().to_string()).collect();
        assert_eq!(text, ["via=1,2, 4", "x=1", "accept=3", "X=2", "x=5"]);
        fields.remove(HeaderId::Via);
        assert!(!fields.contains(HeaderId::Via) && fields.contains(HeaderId::Accept));
    }
}
