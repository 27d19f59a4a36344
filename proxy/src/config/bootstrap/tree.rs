//! Text to a tree of values that know their line and column: JSON, and YAML as Envoy's parser reads it.
//!
//! Invariant: depth and expansion are bounded. It knows no message: shaping does.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::limits;

/// Where a value stands, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

#[derive(Debug, Clone)]
pub struct Node {
    pub value: Value,
    pub at: Position,
    /// Where its key stands, when it has one.
    pub key: Option<Position>,
}

impl Node {
    fn new(value: Value, at: Position) -> Node {
        Node { value, at, key: None }
    }
}

#[derive(Debug, Clone)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Why a text is no tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeError {
    pub at: Position,
    pub reason: String,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.reason)
    }
}

fn fail<T>(at: Position, reason: impl Into<String>) -> Result<T, TreeError> {
    Err(TreeError { at, reason: reason.into() })
}

/// A node while it is built, and how many values it holds.
struct Open {
    node: Node,
    anchor: usize,
    key: Option<(String, Position)>,
    /// Of a map, so that each is there once.
    keys: BTreeSet<String>,
    size: usize,
}

/// Reads one YAML document.
pub fn yaml(text: &str) -> Result<Node, TreeError> {
    let mut builder = Builder { stack: Vec::new(), anchors: Vec::new(), root: None, values: 0 };
    let budget = limits::CONFIG_EXPANSION.max(text.len() / 8);
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| TreeError {
            at: Position { line: e.marker().line(), column: e.marker().col() + 1 },
            reason: e.info().to_owned(),
        })?;
        let at = position(&span);
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return fail(at, "more than one document");
            }
        }
        builder.take(event, at)?;
        if builder.values > budget {
            return fail(
                at,
                format!("the document expands to more than {budget} values through its aliases"),
            );
        }
    }
    //= envoy: Unable to convert YAML as JSON
    match builder.root {
        Some(root) if !matches!(root.value, Value::Null) => Ok(root),
        _ => fail(Position { line: 1, column: 1 }, "there is nothing in it; an empty configuration is '{}'"),
    }
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line(), column: span.start.col() + 1 }
}

struct Builder {
    stack: Vec<Open>,
    /// Finished nodes by anchor number, with their sizes; `None`: still open, so an alias would be a cycle.
    anchors: Vec<Option<(Node, usize)>>,
    root: Option<Node>,
    values: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, at: Position) -> Result<(), TreeError> {
        match event {
            Event::Scalar(text, style, anchor, _tag) => {
                let value = match plain(&text) {
                    _ if style != ScalarStyle::Plain => Value::Text(text.into_owned()),
                    Value::Null => Value::Null,
                    //= envoy: a key is text, whatever else it could be
                    _ if self.awaits_key() => Value::Text(text.into_owned()),
                    value => value,
                };
                self.finish(Node::new(value, at), anchor, 1)
            }
            Event::SequenceStart(anchor, _) => self.open(Value::List(Vec::new()), at, anchor),
            Event::MappingStart(anchor, _) => self.open(Value::Map(Vec::new()), at, anchor),
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.stack.pop() else { return fail(at, "an end without a beginning") };
                self.finish(open.node, open.anchor, open.size)
            }
            Event::Alias(anchor) => match self.anchors.get(anchor) {
                Some(Some((node, size))) => {
                    let (node, size) = (node.clone(), *size);
                    self.finish(node, 0, size)
                }
                _ => fail(at, "an alias of a value that contains it, or of none"),
            },
            _ => Ok(()),
        }
    }

    fn awaits_key(&self) -> bool {
        self.stack.last().is_some_and(|open| matches!(open.node.value, Value::Map(_)) && open.key.is_none())
    }

    fn open(&mut self, value: Value, at: Position, anchor: usize) -> Result<(), TreeError> {
        if self.stack.len() >= limits::CONFIG_DEPTH {
            return fail(at, format!("nested deeper than {}", limits::CONFIG_DEPTH));
        }
        self.set_anchor(anchor, None);
        self.stack.push(Open {
            node: Node::new(value, at),
            anchor,
            key: None,
            keys: BTreeSet::new(),
            size: 1,
        });
        Ok(())
    }

    fn set_anchor(&mut self, anchor: usize, node: Option<(Node, usize)>) {
        if anchor > 0 {
            if self.anchors.len() <= anchor {
                self.anchors.resize_with(anchor + 1, || None);
            }
            self.anchors[anchor] = node;
        }
    }

    fn finish(&mut self, mut node: Node, anchor: usize, size: usize) -> Result<(), TreeError> {
        self.values += size;
        if anchor > 0 {
            self.set_anchor(anchor, Some((node.clone(), size)));
        }
        let Some(parent) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        parent.size += size;
        match &mut parent.node.value {
            Value::List(list) => list.push(node),
            Value::Map(map) => match parent.key.take() {
                None => {
                    let at = node.at;
                    parent.key = Some((key_text(node)?, at));
                }
                Some((key, _)) if key == "<<" => merge(map, &mut parent.keys, node)?,
                Some((key, at)) => {
                    node.key = Some(at);
                    if !parent.keys.insert(key.clone()) {
                        return fail(at, format!("'{key}' is given twice"));
                    }
                    map.push((key, node));
                }
            },
            _ => {}
        }
        Ok(())
    }
}

fn key_text(node: Node) -> Result<String, TreeError> {
    match node.value {
        Value::Text(text) => Ok(text),
        Value::Null => Ok("null".to_owned()),
        _ => fail(node.at, "a key must be a scalar"),
    }
}

/// `<<`: the other map's entries, where this one has none.
fn merge(map: &mut Vec<(String, Node)>, keys: &mut BTreeSet<String>, node: Node) -> Result<(), TreeError> {
    let sources = match node.value {
        Value::Map(entries) => vec![entries],
        Value::List(list) => list
            .into_iter()
            .map(|n| match n.value {
                Value::Map(entries) => Ok(entries),
                _ => fail(n.at, "a merge needs maps"),
            })
            .collect::<Result<_, _>>()?,
        _ => return fail(node.at, "a merge needs a map"),
    };
    for (key, value) in sources.into_iter().flatten() {
        if keys.insert(key.clone()) {
            map.push((key, value));
        }
    }
    Ok(())
}

/// An unquoted scalar, as yaml-cpp reads it for Envoy: YAML 1.1 booleans, decimal, octal and hexadecimal integers.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let (negative, digits) = match text.as_bytes()[0] {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let number = if let Some(hex) = digits.strip_prefix("0x") {
        parse_digits(hex, 16)
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| (b'0'..b'8').contains(&b))
    {
        parse_digits(&digits[1..], 8)
    } else {
        parse_digits(digits, 10)
    };
    if let Some(n) = number {
        return Value::Int(if negative { -n } else { n });
    }
    let fractional = digits.split_once('.').is_some_and(|(whole, fraction)| {
        let all_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        all_digits(whole) && all_digits(fraction)
    });
    match text.parse::<f64>() {
        Ok(value) if fractional => Value::Float(value),
        _ => Value::Text(text.to_owned()),
    }
}

fn parse_digits(digits: &str, radix: u32) -> Option<i128> {
    let clean =
        !digits.is_empty() && digits.len() <= 32 && digits.bytes().all(|b| (b as char).is_digit(radix));
    clean.then(|| i128::from_str_radix(digits, radix).ok()).flatten()
}

/// Reads JSON, with the two leniencies that configurations rest on: a trailing comma, and comments are refused.
pub fn json(text: &str) -> Result<Node, TreeError> {
    let mut reader =
        Json { text: text.as_bytes(), at: 0, line: Cell::new(Line { number: 1, start: 0, seen: 0 }) };
    reader.blank();
    let node = reader.value(0)?;
    reader.blank();
    if reader.at < reader.text.len() {
        return fail(reader.position(), "something follows the value");
    }
    if matches!(node.value, Value::Null) {
        return fail(node.at, "there is nothing in it; an empty configuration is {}");
    }
    Ok(node)
}

struct Json<'a> {
    text: &'a [u8],
    at: usize,
    /// Of the last position that was asked for: the next one is counted from there.
    line: Cell<Line>,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    number: usize,
    start: usize,
    /// What lies before has been counted.
    seen: usize,
}

impl Json<'_> {
    fn position(&self) -> Position {
        let end = self.at.min(self.text.len());
        let mut line = self.line.get();
        if end < line.seen {
            line = Line { number: 1, start: 0, seen: 0 };
        }
        for n in memchr::memchr_iter(b'\n', &self.text[line.seen..end]) {
            line = Line { number: line.number + 1, start: line.seen + n + 1, ..line };
        }
        self.line.set(Line { seen: end, ..line });
        Position { line: line.number, column: self.at - line.start + 1 }
    }

    fn blank(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn value(&mut self, depth: usize) -> Result<Node, TreeError> {
        let at = self.position();
        if depth > limits::CONFIG_DEPTH {
            return fail(at, format!("nested deeper than {}", limits::CONFIG_DEPTH));
        }
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Value::Text(self.string()?.into_owned()),
            Some(_) => self.word()?,
            None => return fail(at, "the text ends where a value is expected"),
        };
        Ok(Node::new(value, at))
    }

    fn object(&mut self, depth: usize) -> Result<Value, TreeError> {
        let (mut map, mut keys) = (Vec::new(), BTreeSet::new());
        self.at += 1;
        loop {
            self.blank();
            match self.peek() {
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Map(map));
                }
                Some(b'"') => {}
                _ => return fail(self.position(), "expected a key in double quotes or '}'"),
            }
            let key_at = self.position();
            let key = self.string()?.into_owned();
            if !keys.insert(key.clone()) {
                return fail(key_at, format!("'{key}' is given twice"));
            }
            self.blank();
            if self.peek() != Some(b':') {
                return fail(self.position(), "expected ':' after a key");
            }
            self.at += 1;
            self.blank();
            let mut node = self.value(depth + 1)?;
            node.key = Some(key_at);
            map.push((key, node));
            self.separator(b'}')?;
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value, TreeError> {
        let mut list = Vec::new();
        self.at += 1;
        loop {
            self.blank();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(Value::List(list));
            }
            list.push(self.value(depth + 1)?);
            self.separator(b']')?;
        }
    }

    fn separator(&mut self, end: u8) -> Result<(), TreeError> {
        self.blank();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(())
            }
            Some(b) if b == end => Ok(()),
            _ => fail(self.position(), format!("expected ',' or '{}'", end as char)),
        }
    }

    fn string(&mut self) -> Result<Cow<'_, str>, TreeError> {
        let start = self.at;
        self.at += 1;
        while let Some(b) = self.peek() {
            self.at += if b == b'\\' { 2 } else { 1 };
            if b == b'"' {
                return serde_json::from_slice::<String>(&self.text[start..self.at])
                    .map(Cow::Owned)
                    .or_else(|e| fail(self.position(), format!("a bad string: {e}")));
            }
        }
        fail(self.position(), "a string without an end")
    }

    fn word(&mut self) -> Result<Value, TreeError> {
        let start = self.at;
        while self.peek().is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.')) {
            self.at += 1;
        }
        let word = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        match word {
            "null" => return Ok(Value::Null),
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        if let Ok(n) = word.parse::<i128>() {
            return Ok(Value::Int(n));
        }
        match word.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(Value::Float(n)),
            _ => {
                self.at = start;
                fail(self.position(), "expected a value")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node) -> String {
        match &node.value {
            Value::Null => "null".to_owned(),
            Value::Bool(b) => b.to_string(),
            Value::Int(n) => n.to_string(),
            Value::Float(n) => format!("{n}f"),
            Value::Text(t) => format!("'{t}'"),
            Value::List(l) => format!("[{}]", l.iter().map(show).collect::<Vec<_>>().join(",")),
            Value::Map(m) => format!(
                "{{{}}}",
                m.iter().map(|(k, v)| format!("{k}:{}", show(v))).collect::<Vec<_>>().join(",")
            ),
        }
    }

    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        let text = "[y, n, Yes, off, 10, 0x10, 010, +1, -3, 1e3, 1_000, .5, 0o10, ~, null, 'y', \"10\", 2024-01-01, 0.25, 0.25s]";
        assert_eq!(
            show(&yaml(text).expect("yaml")),
            "[true,false,true,false,10,16,8,1,-3,'1e3','1_000','.5','0o10',null,null,'y','10','2024-01-01',0.25f,'0.25s']"
        );
    }

    #[test]
    fn keys_are_text() {
        assert_eq!(
            show(&yaml("{y: y, on: n, 010: 010, 1.50: 1, ~: a, 'no': b}").expect("yaml")),
            "{y:true,on:false,010:8,1.50:1,null:'a',no:'b'}"
        );
        assert!(yaml("{[a]: b}").expect_err("a list").reason.contains("a key must be a scalar"));
    }

    /// A reader that looks back at every value for each one would take minutes.
    #[test]
    fn large_maps_cost_no_more_than_their_size() {
        let entries: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\": {n}")).collect();
        let text = format!("{{{}}}", entries.join(",\n "));
        for node in [json(&text), yaml(&text)] {
            let Ok(Node { value: Value::Map(map), .. }) = node else { panic!("a map") };
            assert_eq!(map.len(), 200_000);
            let (key, last) = map.last().expect("an entry");
            assert_eq!((&**key, last.at), ("k199999", Position { line: 200_000, column: 13 }));
        }
        let small = entries[..20_000].join(", ");
        let merged = format!("a: &a {{{small}}}\nb: {{<<: [*a, *a, *a, *a, *a, *a, *a, *a]}}");
        let Value::Map(map) = yaml(&merged).expect("yaml").value else { panic!("a map") };
        assert!(matches!(&map[1].1.value, Value::Map(b) if b.len() == 20_000));
        assert_eq!(json("{\"a\": 1,\n \"a\": 2}").expect_err("twice").at, Position { line: 2, column: 2 });
    }

    #[test]
    fn anchors_merges_and_their_abuse() {
        assert_eq!(
            show(&yaml("a: &x {b: 1}\nc: {<<: *x, d: 2}\ne: *x").expect("yaml")),
            "{a:{b:1},c:{b:1,d:2},e:{b:1}}"
        );
        assert!(yaml("a: &x [*x]").expect_err("a cycle").reason.contains("contains it"));
        let mut bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n".to_owned();
        for (from, to) in ('a'..'i').zip('b'..='i') {
            bomb += &format!(
                "{to}: &{to} [*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from},*{from}]\n"
            );
        }
        assert!(yaml(&bomb).expect_err("a bomb").reason.contains("expands"));
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert!(yaml(&deep).expect_err("deep").reason.contains("nested deeper"));
        assert!(json(&deep).expect_err("deep").reason.contains("nested deeper"));
        assert_eq!(yaml("a: 1\na: 2").expect_err("twice").at, Position { line: 2, column: 1 });
    }

    #[test]
    fn json_with_a_trailing_comma() {
        assert_eq!(
            show(&json("{\"a\": [1, 2.5, \"x\\n\",], \"b\": {},}").expect("json")),
            "{a:[1,2.5f,'x\n'],b:{}}"
        );
        assert_eq!(json("{\n  a: 1}").expect_err("bare").at, Position { line: 2, column: 3 });
        assert!(json("{} x").is_err() && json("").is_err() && json("[1").is_err() && json("nan").is_err());
    }
}
