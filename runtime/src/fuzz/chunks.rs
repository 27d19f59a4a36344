//! Chunks, blocks, groups and the budget against vectors of bytes.

use std::rc::Rc;
use std::sync::Arc;

use super::Bytes;
use crate::buf::{BlockMut, Budget, Chunk, Chunks, Group};

const BUFFER: usize = 64;
const BUFFERS: usize = 6;
const BUDGET: usize = 2048;
/// Chunks that live at once.
const LIVE: usize = 12;
static TEXT: &[u8] = b"static bytes of the program";

/// Chunks and what is in them.
struct World {
    budget: Budget,
    group: Rc<Group>,
    chunks: Vec<(Chunk, Vec<u8>)>,
    list: Chunks,
    listed: Vec<u8>,
    stamp: u8,
}

/// Operations on chunks: no view ever changes, and all memory comes back.
pub fn chunks(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let budget = Budget::new(BUDGET);
    let group = Group::new(BUFFER, 2, BUFFERS, &budget);
    let mut world =
        World { budget, group, chunks: Vec::new(), list: Chunks::new(), listed: Vec::new(), stamp: 0 };
    while !bytes.is_empty() {
        world.step(&mut bytes);
        world.check();
    }
    let World { budget, group, chunks, list, .. } = world;
    // Loans outlive the handle of their group.
    drop(group);
    drop(list);
    drop(chunks);
    assert_eq!(budget.used(), 0, "all memory came back");
}

impl World {
    fn step(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(16) {
            0..=2 if self.chunks.len() < LIVE => self.make(bytes),
            3 => self.with_one(bytes, |chunk, model, n| {
                let head = chunk.split_to(n);
                let rest = model.split_off(n);
                Some((head, std::mem::replace(model, rest)))
            }),
            4 => {
                self.with_one(bytes, |chunk, model, n| Some((chunk.slice(n / 2..n), model[n / 2..n].into())))
            }
            5 => self.with_one(bytes, |chunk, model, n| {
                chunk.advance(n);
                model.drain(..n);
                None
            }),
            6 => self.with_one(bytes, |chunk, model, n| {
                chunk.truncate(n);
                model.truncate(n);
                None
            }),
            7 => self.with_one(bytes, |chunk, model, _| Some((chunk.clone(), model.clone()))),
            8 => {
                if let Some((chunk, model)) = self.remove(bytes) {
                    self.chunks.push((chunk.compact(&self.budget), model));
                }
            }
            9..=11 => {
                if let Some((chunk, model)) = self.remove(bytes) {
                    self.list.push(chunk);
                    self.listed.extend_from_slice(&model);
                }
            }
            12 => {
                if let Some(chunk) = self.list.pop() {
                    let rest = self.listed.split_off(chunk.len());
                    self.chunks.push((chunk, std::mem::replace(&mut self.listed, rest)));
                }
            }
            13 => {
                let n = bytes.below(self.listed.len() + 1);
                self.list.advance(n);
                self.listed.drain(..n);
            }
            14 => self.whole_list(bytes),
            _ => drop(self.remove(bytes)),
        }
    }

    /// A chunk of one of the kinds.
    fn make(&mut self, bytes: &mut Bytes<'_>) {
        let (kind, length) = (bytes.below(4), bytes.below(BUFFER + 1));
        self.stamp = self.stamp.wrapping_add(1);
        let model = vec![self.stamp; length];
        let chunk = match kind {
            0 => {
                if self.group.free_count() == 0 && !self.group.grow() {
                    return;
                }
                let id = self.group.pop_free().expect("one is free");
                // WHY: stands for the kernel, which writes before the buffer is lent.
                // SAFETY: the buffer is free, and `length` is at most its size.
                unsafe { self.group.memory_of(id).write_bytes(self.stamp, length) };
                self.group.lend(id, length)
            }
            1 => {
                let mut block = BlockMut::with_capacity(bytes.below(2 * BUFFER), &self.budget);
                block.extend_from_slice(&model);
                block.freeze()
            }
            2 => Chunk::from_shared(Arc::from(model.as_slice())),
            _ => {
                let part = &TEXT[..length.min(TEXT.len())];
                return self.chunks.push((Chunk::from_static(part), part.to_vec()));
            }
        };
        self.chunks.push((chunk, model));
    }

    /// Does something at a place of one chunk; what comes of it lives on.
    fn with_one(
        &mut self,
        bytes: &mut Bytes<'_>,
        act: impl FnOnce(&mut Chunk, &mut Vec<u8>, usize) -> Option<(Chunk, Vec<u8>)>,
    ) {
        if self.chunks.is_empty() || self.chunks.len() >= LIVE {
            return;
        }
        let at = bytes.below(self.chunks.len());
        let (chunk, model) = &mut self.chunks[at];
        let n = bytes.below(model.len() + 1);
        let made = act(chunk, model, n);
        self.chunks.extend(made);
    }

    fn remove(&mut self, bytes: &mut Bytes<'_>) -> Option<(Chunk, Vec<u8>)> {
        let count = self.chunks.len();
        (count > 0).then(|| self.chunks.swap_remove(bytes.below(count)))
    }

    fn whole_list(&mut self, bytes: &mut Bytes<'_>) {
        match bytes.below(3) {
            0 => self.list.compact(&self.budget),
            1 => {
                let mut other = Chunks::new();
                other.append(std::mem::take(&mut self.list));
                other.shrink();
                self.list = other;
            }
            _ => {
                let all = std::mem::take(&mut self.list).gather(&self.budget);
                self.chunks.push((all, std::mem::take(&mut self.listed)));
            }
        }
    }

    fn check(&self) {
        for (chunk, model) in &self.chunks {
            assert_eq!(&**chunk, model.as_slice());
        }
        assert_eq!(self.list.bytes(), self.listed.len());
        assert_eq!(self.list.iter().flat_map(|c| c.iter().copied()).collect::<Vec<_>>(), self.listed);
        assert_eq!(self.list.count(), self.list.iter().count());
        assert!(self.list.iter().all(|chunk| !chunk.is_empty()), "no empty chunk is listed");
        let all = || self.chunks.iter().map(|(chunk, _)| chunk).chain(self.list.iter());
        let lent = self.group.lent.get();
        assert!(lent <= all().filter(|chunk| chunk.is_lent()).count(), "a buffer without a view is free");
        assert_eq!(lent > 0, all().any(Chunk::is_lent), "a buffer with a view is lent");
    }
}
