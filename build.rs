//! Writes the tables that `src/token.rs` and `src/pretoken.rs` are built around.
//!
//! Parsing a vocabulary takes tens of milliseconds, more than a whole run of this program may cost,
//! so it is done here, once, and the program only looks things up in constant bytes. Per encoding:
//! - `bytes`: all tokens one after the other, by id; `offsets` and `bases`: where each one starts;
//! - `slots`: an open-addressing table from a token's hash to its id;
//! - `hashes`: a filter that says which hashes no token has;
//! - `spans`: a filter that says between which characters a token can reach.
//!
//! And one two-stage table, `classes`, with the character classes of the splitting rules.
//!
//! All integers are little-endian. Nothing depends on the machine or on the order of a hash map, so
//! the same crates give the same bytes.

use std::collections::HashMap;
use std::path::Path;

use bpe_openai::Tokenizer;
use regex_syntax::hir::{Class, HirKind};

/// Tokens whose starts are stored relative to one base; with the longest token of 128 bytes the
/// relative starts fit in 16 bits.
const TOKENS_PER_BASE: usize = 256;

/// Bits of a slot that hold the id; the rest is a tag that saves most looks at wrong tokens.
const ID_BITS: u32 = 18;

/// Characters per block of the class table.
const BLOCK: usize = 128;

/// General categories by class, one bit each; `src/pretoken.rs` has the same bits.
const CLASSES: [(&str, u8); 7] = [
    (r"[\p{Lu}\p{Lt}]", 1),
    (r"\p{Ll}", 2),
    (r"[\p{Lm}\p{Lo}]", 4),
    (r"\p{M}", 8),
    (r"\p{N}", 16),
    (r"[\s--[\r\n]]", 32),
    (r"[\r\n]", 64),
];

/// The class of all other characters.
const OTHER: u8 = 128;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    write_vocabulary(out, "o200k", bpe_openai::o200k_base(), 1 << 20, 1 << 20);
    write_vocabulary(out, "cl100k", bpe_openai::cl100k_base(), 1 << 19, 1 << 18);
    write_classes(out);
}

fn write(out: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(out.join(name), bytes).expect("OUT_DIR is writable");
}

fn write_vocabulary(
    out: &Path,
    name: &str,
    tokenizer: &Tokenizer,
    hash_bits: usize,
    span_bits: usize,
) {
    let tokens: Vec<&[u8]> = (0..tokenizer.bpe.num_tokens())
        .map(|id| {
            tokenizer
                .bpe
                .token_bytes(u32::try_from(id).expect("ids are 32 bits"))
        })
        .collect();
    assert!(tokens.len() < (1 << ID_BITS) - 1, "ids fit in a slot");
    assert!(tokens.iter().all(|token| (1..=128).contains(&token.len())));

    let (mut bases, mut offsets, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let mut base = 0;
    // One more than there are tokens: a token ends where the next one starts.
    for id in 0..=tokens.len() {
        if id % TOKENS_PER_BASE == 0 {
            base = bytes.len();
            bases.extend(u32::try_from(base).expect("a few megabytes").to_le_bytes());
        }
        let offset = u16::try_from(bytes.len() - base).expect("256 tokens of 128 bytes");
        offsets.extend(offset.to_le_bytes());
        bytes.extend(tokens.get(id).copied().unwrap_or_default());
    }

    // So that 16 bytes can be read from the start of any token.
    bytes.extend([0; 16]);

    write(out, &format!("{name}.bases"), &bases);
    write(out, &format!("{name}.offsets"), &offsets);
    write(out, &format!("{name}.bytes"), &bytes);
    write(out, &format!("{name}.slots"), &slots(&tokens));
    write(out, &format!("{name}.hashes"), &hashes(&tokens, hash_bits));
    write(out, &format!("{name}.spans"), &spans(&tokens, span_bits));
}

/// Lowest ids first, as they are the most frequent and then sit nearest to their home.
fn slots(tokens: &[&[u8]]) -> Vec<u8> {
    // 4/5 full; most searches for what is not there do not come here, see `hashes`.
    let mut slots = vec![0_u32; tokens.len() * 5 / 4];
    for (id, token) in (1..).zip(tokens) {
        let hash = hash(token);
        let mut at = (((hash & 0xffff_ffff) * slots.len() as u64) >> 32) as usize;
        while slots[at] != 0 {
            at = (at + 1) % slots.len();
        }
        slots[at] = ((hash >> (32 + ID_BITS)) as u32) << ID_BITS | id;
    }
    slots.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The same function as in `src/input/vocabulary.rs`, where the reasons are.
#[allow(clippy::cast_possible_truncation)]
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(16).fold(0, |hash, chunk| {
        let mut key = [0; 16];
        key[..chunk.len()].copy_from_slice(chunk);
        let key = u128::from_le_bytes(key) ^ u128::from(hash);
        let low = (key as u64) ^ 0x9e37_79b9_7f4a_7c15;
        let high = ((key >> 64) as u64) ^ 0xd1b5_4a32_d192_ed03;
        let product = u128::from(low) * u128::from(high);
        (product as u64) ^ ((product >> 64) as u64)
    })
}

/// One bit for every token, by its hash: most pairs that merging looks up are no token, and this
/// tells so with one read.
fn hashes(tokens: &[&[u8]], bits: usize) -> Vec<u8> {
    let mut hashes = vec![0_u8; bits / 8];
    for token in tokens {
        let bit = (hash(token) >> 32) as usize % bits;
        hashes[bit / 8] |= 1 << (bit % 8);
    }
    hashes
}

/// One bit for every pair of neighbouring characters inside some token, by the hash of the pair.
///
/// A token can begin or end inside a character. Then only some bytes of that character are known,
/// and what is entered is what is always known: the last byte on the left, the first on the right.
fn spans(tokens: &[&[u8]], bits: usize) -> Vec<u8> {
    let mut spans = vec![0_u8; bits / 8];
    for token in tokens {
        let starts_character = |at: usize| token[at] & 0xc0 != 0x80;
        for middle in (1..token.len()).filter(|&at| starts_character(at)) {
            let start = (0..middle).rev().find(|&at| starts_character(at));
            let last = u32::from(token[middle - 1]);
            let end = middle + width(token[middle]);
            let (left, right) = match (start, token.get(middle..end)) {
                (Some(start), Some(right)) => (join(&token[start..middle]), join(right)),
                (None, Some(right)) => (last, join(right)),
                (_, None) => (last, u32::from(token[middle])),
            };
            let bit = pair_bit(left, right) % bits;
            spans[bit / 8] |= 1 << (bit % 8);
        }
    }
    spans
}

fn width(first_byte: u8) -> usize {
    match first_byte {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    }
}

fn join(character: &[u8]) -> u32 {
    character
        .iter()
        .fold(0, |joined, &byte| joined << 8 | u32::from(byte))
}

/// The same function as in `src/token.rs`.
fn pair_bit(left: u32, right: u32) -> usize {
    let pair = u64::from(left) << 32 | u64::from(right);
    (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

/// A byte per block of characters says which of the distinct blocks it is; then those blocks.
fn write_classes(out: &Path) {
    let mut classes = vec![OTHER; 0x11_0000];
    for (pattern, class) in CLASSES {
        let hir = regex_syntax::parse(pattern).expect("a valid class");
        let HirKind::Class(Class::Unicode(set)) = hir.kind() else {
            panic!("`{pattern}` is not a class of characters");
        };
        for range in set.ranges() {
            classes[range.start() as usize..=range.end() as usize].fill(class);
        }
    }
    let mut blocks = Vec::new();
    let mut numbers = HashMap::new();
    let mut index = Vec::new();
    for block in classes.chunks(BLOCK) {
        let next = numbers.len();
        let number = *numbers.entry(block).or_insert_with(|| {
            blocks.extend(block);
            next
        });
        index.push(u8::try_from(number).expect("at most 256 distinct blocks"));
    }
    write(out, "classes.index", &index);
    write(out, "classes.blocks", &blocks);
}
