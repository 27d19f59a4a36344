//! The longest known prefix of a string, and those that it contains, by halving: no hash, no allocation.
//!
//! Invariant: entries are sorted and distinct; `parent` of an entry is the longest other entry that it begins with.

use std::cmp::Ordering;

/// Strings that are looked for at the beginning of another.
#[derive(Debug, Default)]
pub struct Prefixes {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    parent: Option<u32>,
    /// What the owner keeps under this prefix, ascending.
    items: Box<[u32]>,
}

impl Prefixes {
    /// Each text with an item; items of equal texts are gathered in ascending order.
    pub fn new(mut list: Vec<(Box<[u8]>, u32)>) -> Prefixes {
        list.sort();
        let mut entries: Vec<Entry> = Vec::new();
        // The chain of entries that the last one begins with, outermost first.
        let mut chain: Vec<u32> = Vec::new();
        let mut list = list.into_iter().peekable();
        while let Some((text, item)) = list.next() {
            let mut items = vec![item];
            while let Some((_, more)) = list.next_if(|(next, _)| *next == text) {
                items.push(more);
            }
            while chain.last().is_some_and(|&last| !text.starts_with(&entries[last as usize].text)) {
                chain.pop();
            }
            let parent = chain.last().copied();
            chain.push(u32::try_from(entries.len()).expect("fewer than 2^32 prefixes"));
            entries.push(Entry { text, parent, items: items.into_boxed_slice() });
        }
        Prefixes { entries }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The items of every prefix of `text`, the longest prefix first. With `fold`, `text` is read in lower case.
    pub fn of<'a>(&'a self, text: &'a [u8], fold: bool) -> impl Iterator<Item = (usize, &'a [u32])> {
        let mut at = self.longest(text, fold);
        std::iter::from_fn(move || {
            let entry = &self.entries[at? as usize];
            at = entry.parent;
            Some((entry.text.len(), &*entry.items))
        })
    }

    fn longest(&self, text: &[u8], fold: bool) -> Option<u32> {
        let after = self.entries.partition_point(|e| compare(&e.text, text, fold) != Ordering::Greater);
        let mut at = u32::try_from(after.checked_sub(1)?).ok();
        // The greatest entry up to `text` either begins it, or differs after the longest that does.
        while let Some(i) = at {
            let entry = &self.entries[i as usize];
            if begins(text, &entry.text, fold) {
                break;
            }
            at = entry.parent;
        }
        at
    }
}

/// A text and its items.
type Whole = (Box<[u8]>, Box<[u32]>);

/// Strings that are looked for whole.
#[derive(Debug, Default)]
pub struct Exacts {
    entries: Vec<Whole>,
}

impl Exacts {
    pub fn new(mut list: Vec<(Box<[u8]>, u32)>) -> Exacts {
        list.sort();
        let mut entries: Vec<(Box<[u8]>, Vec<u32>)> = Vec::new();
        for (text, item) in list {
            match entries.last_mut() {
                Some((last, items)) if *last == text => items.push(item),
                _ => entries.push((text, vec![item])),
            }
        }
        Exacts { entries: entries.into_iter().map(|(t, i)| (t, i.into_boxed_slice())).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The items of `text`. With `fold`, `text` is read in lower case.
    pub fn of(&self, text: &[u8], fold: bool) -> &[u32] {
        match self.entries.binary_search_by(|(entry, _)| compare(entry, text, fold)) {
            Ok(at) => &self.entries[at].1,
            Err(_) => &[],
        }
    }
}

fn compare(entry: &[u8], text: &[u8], fold: bool) -> Ordering {
    if fold { entry.iter().copied().cmp(text.iter().map(u8::to_ascii_lowercase)) } else { entry.cmp(text) }
}

fn begins(text: &[u8], prefix: &[u8], fold: bool) -> bool {
    match text.get(..prefix.len()) {
        Some(head) => {
            if fold {
                head.eq_ignore_ascii_case(prefix)
            } else {
                head == prefix
            }
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_scan_finds(texts in prop::collection::vec("[ab]{0,4}", 0..20), text in "[abAB]{0,6}", fold: bool) {
            let list = texts.iter().zip(0..).map(|(t, i)| (t.as_bytes().into(), i)).collect::<Vec<(Box<[u8]>, u32)>>();
            let index = Prefixes::new(list.clone());
            let mut found: Vec<u32> = index.of(text.as_bytes(), fold).flat_map(|(_, items)| items.to_vec()).collect();
            found.sort_unstable();
            let read = if fold { text.to_ascii_lowercase() } else { text.clone() };
            let expected: Vec<u32> =
                texts.iter().zip(0..).filter(|(t, _)| read.starts_with(t.as_str())).map(|(_, i)| i).collect();
            prop_assert_eq!(found, expected);
            let exact = Exacts::new(list);
            let expected: Vec<u32> = texts.iter().zip(0..).filter(|(t, _)| **t == read).map(|(_, i)| i).collect();
            prop_assert_eq!(exact.of(text.as_bytes(), fold).to_vec(), expected);
        }
    }
}
