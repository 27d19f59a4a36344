//! Choices from the bytes of a fuzzer. Where they end, every choice is the first one.

/// The bytes that are left.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(data: &'a [u8]) -> Bytes<'a> {
        Bytes(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number below `bound`, which is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = bound > 256;
        let number = usize::from(self.byte()) | if wide { usize::from(self.byte()) << 8 } else { 0 };
        number % bound
    }

    /// Up to eight bytes of a number, as its first byte says.
    pub fn number(&mut self) -> u64 {
        let length = self.byte() % 9;
        (0..length).fold(0, |n, _| n << 8 | u64::from(self.byte()))
    }

    pub fn one_of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// So many of these characters, at most.
    pub fn text(&mut self, characters: &[u8], most: usize) -> String {
        let length = self.below(most + 1);
        (0..length).map(|_| char::from(self.one_of(characters))).collect()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
