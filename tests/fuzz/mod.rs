//! Bytes from outside that may be anything: what parses them, what serves them, and what reads a node's answers. Valid
//! bytes are bent at random, again and again.
//!
//! `BYTENODE_FUZZ_CASES` says how often each is bent (2,000), `BYTENODE_FUZZ_FIRST` with which seed it begins; a failure
//! names its seed.

mod answers;
mod parsers;
mod servers;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// A cheap source of chance: SplitMix64.
pub struct Chance(u64);

impl Chance {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }

    pub fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// What numbers, lengths and markers are replaced with.
const WORDS: [&[u8]; 14] = [
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"\0",
    b"\r\n",
    b"../",
    b"%2e%2e%2f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\xc3\x28",
    b"\x1b[2J",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
];

/// Bends bytes a few times; sometimes leaves them as they are.
pub fn bent(chance: &mut Chance, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        let to = (at + chance.below(16)).min(bytes.len());
        match chance.below(8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            1 if at < bytes.len() => bytes[at] = *chance.of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'/', b'\n']),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let piece = bytes[at..to].to_vec();
                (0..=chance.below(64)).for_each(|_| drop(bytes.splice(at..at, piece.iter().copied())));
            }
            5 => drop(bytes.splice(at..to, chance.of(&WORDS).iter().copied())),
            6 => {
                let random: Vec<u8> = (0..chance.below(24)).map(|_| chance.next().to_le_bytes()[0]).collect();
                drop(bytes.splice(at..at, random));
            }
            _ => bytes.rotate_left(at),
        }
    }
    bytes
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap())
}

/// Bends samples and tries what comes of it; a share of the usual number of times where one try costs more.
pub fn bend(what: &str, share: u64, samples: &[Vec<u8>], mut attempt: impl FnMut(&mut Chance, &[u8], &[u8])) {
    let first = number("BYTENODE_FUZZ_FIRST", 0);
    let cases = (number("BYTENODE_FUZZ_CASES", 2000) / share).max(1);
    for seed in first..first + cases {
        let mut chance = Chance::new(seed);
        let sample = chance.of(samples).clone();
        let bytes = bent(&mut chance, &sample);
        let tried = catch_unwind(AssertUnwindSafe(|| attempt(&mut chance, &sample, &bytes)));
        if let Err(panic) = tried {
            println!("{what}, BYTENODE_FUZZ_FIRST={seed}: {:?}", bytes.escape_ascii().to_string());
            resume_unwind(panic);
        }
    }
}
