//! Writes the tables that `src/input/vocabulary.rs` and `src/input/pretoken.rs` are built around.
//!
//! Parsing a vocabulary takes tens of milliseconds, more than a whole run of this program may cost,
//! so it is done here, once, and the program only looks things up in constant bytes. Per encoding:
//! - `1` to `16`: open-addressing tables of the tokens of so many bytes, with those and the id, so that a search
//!   touches one cache line; `long`: of all others, with where they start in `bytes`;
//! - `hashes`: a filter that says which hashes no token has;
//! - `spans`: a filter that says between which characters a token can reach;
//! - `starts` and `ends`: filters that say where it can do so from or into the middle of one;
//! - `pairs`: the ids of tokens of two ASCII characters; `characters`: how many tokens a character makes alone;
//! - `han.rows` and `han.pairs`: which two Chinese characters are in a token together, and `han.marks`, which marks are in
//!   one with such a character.
//!
//! And one two-stage table, `classes`, with the character classes of the splitting rules.
//!
//! All integers are little-endian. Nothing depends on the machine or on the order of a hash map, so
//! the same crates give the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bpe_openai::Tokenizer;
use regex_syntax::hir::{Class, HirKind};

/// Bits of an entry that hold the id.
const ID_BITS: u32 = 18;

/// How many masks of characters that tokens start before there are.
const STARTS: usize = 1 << 12;

/// The Chinese characters of `src/input/han.rs`.
const HAN: std::ops::Range<u32> = 0x4e00..0xa000;

/// The marks that `src/input/han.rs` knows: full-width ones, those of Chinese, and dashes and quotes.
const MARKS: [std::ops::Range<u32>; 3] = [0xff00..0xff40, 0x3000..0x3040, 0x2000..0x2040];

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
    link_small(out);
    write_vocabulary(out, "o200k", bpe_openai::o200k_base(), 1 << 20, 1 << 20);
    write_vocabulary(out, "cl100k", bpe_openai::cl100k_base(), 1 << 19, 1 << 18);
    write_classes(out);
}

/// Has the linker write down what the loader has to put in place in a twentieth of the room (`RELR`): the loader reads all
/// of it at every start. What is seldom run is put together, away from the rest. A linker that knows neither goes on
/// without; the loader has to know the first, as glibc does from 2.36 on.
fn link_small(out: &Path) {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        return link_static(out);
    }
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("CARGO_CFG_TARGET_ENV", "gnu") {
        return;
    }
    println!("cargo:rustc-link-arg-bins=-Wl,-z,keep-text-section-prefix");
    // Of another machine than this one nothing is known.
    let is_here = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    let version = std::process::Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output();
    let minor = version.ok().and_then(|version| {
        let version = String::from_utf8(version.stdout).ok()?;
        version
            .trim()
            .strip_prefix("glibc 2.")?
            .split('.')
            .next()?
            .parse::<u32>()
            .ok()
    });
    if is_here && minor.is_some_and(|minor| minor >= 36) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The same of a program with musl in it, which puts itself in place. Such a program that panics ends there and then, so
/// that what tells how to go back through its functions is left out; a linker script says so in all that it has to say.
fn link_static(out: &Path) {
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    let script = "SECTIONS { /DISCARD/ : { *(EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame) } } INSERT BEFORE .text;";
    write(out, "discard.ld", script.as_bytes());
    let path = out.join("discard.ld");
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", path.display());
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
    assert!(tokens.len() < (1 << ID_BITS) - 1, "ids fit in an entry");
    assert!(tokens.iter().all(|token| (1..=128).contains(&token.len())));

    for len in 1..=16 {
        let entries = tokens
            .iter()
            .enumerate()
            .filter(|(_, token)| token.len() == len);
        let entries = entries.map(|(id, token)| (hash(token), short_entry(id, token)));
        let mut table = open_addressing(entries.collect());
        // The last entry, too, is read as if it were of the longest kind.
        table.resize(table.len() + 16 - len + 1, 0);
        write(out, &format!("{name}.{len}"), &table);
    }
    let (mut entries, mut bytes) = (Vec::new(), Vec::new());
    for (id, token) in tokens
        .iter()
        .enumerate()
        .filter(|(_, token)| token.len() > 16)
    {
        let start = u32::try_from(bytes.len())
            .expect("some 100 KB")
            .to_le_bytes();
        entries.push((hash(token), entry(&start, id, token)));
        bytes.extend(*token);
    }
    write(out, &format!("{name}.long"), &open_addressing(entries));
    write(out, &format!("{name}.bytes"), &bytes);
    write(out, &format!("{name}.hashes"), &hashes(&tokens, hash_bits));
    write(out, &format!("{name}.pairs"), &pairs(&tokens));
    let ids = tokens.iter().copied().zip(0..).collect();
    write(out, &format!("{name}.characters"), &characters(&ids));
    let (rows, pairs) = han(&tokens, &ids);
    let units = |units: &[u16]| -> Vec<u8> { units.iter().flat_map(|u| u.to_le_bytes()).collect() };
    let (rows, marks) = rows.split_at(HAN.len());
    write(out, &format!("{name}.han.rows"), &units(rows));
    write(out, &format!("{name}.han.marks"), &units(marks));
    write(out, &format!("{name}.han.pairs"), &units(&pairs));
    let borders = Borders::of(&tokens, &ids, span_bits);
    let bytes = |masks: &[u64]| -> Vec<u8> { masks.iter().flat_map(|m| m.to_le_bytes()).collect() };
    write(out, &format!("{name}.spans"), &borders.spans);
    write(out, &format!("{name}.starts"), &bytes(&borders.starts));
    write(out, &format!("{name}.ends"), &bytes(&borders.ends));
}

/// A token, then its id and 1 in three bytes: never 0, which stands for a free place.
fn short_entry(id: usize, token: &[u8]) -> Vec<u8> {
    let id = u32::try_from(id + 1).expect("18 bits").to_le_bytes();
    [token, &id[..3]].concat()
}

/// A key, then the id below the length: never 0, which stands for a free place.
fn entry(key: &[u8], id: usize, token: &[u8]) -> Vec<u8> {
    let tail = token.len() << ID_BITS | id;
    let tail = u32::try_from(tail).expect("18 bits and 8").to_le_bytes();
    [key, &tail].concat()
}

/// Lowest ids first, as they are the most frequent and then sit nearest to their home.
fn open_addressing(entries: Vec<(u64, Vec<u8>)>) -> Vec<u8> {
    let width = entries.first().map_or(0, |(_, entry)| entry.len());
    // 3/4 full: most searches for what is not there do not come here, see `hashes`.
    let length = entries.len() * 4 / 3;
    let mut table = vec![0; length * width];
    let mut is_taken = vec![false; length];
    for (hash, entry) in entries {
        let mut at = home(hash, length);
        while is_taken[at] {
            at = (at + 1) % length;
        }
        is_taken[at] = true;
        table[at * width..][..width].copy_from_slice(&entry);
    }
    table
}

/// Where in a table of `length` entries a search begins: the same function as in `src/input/vocabulary.rs`.
fn home(hash: u64, length: usize) -> usize {
    (((hash & 0xffff_ffff) * length as u64) >> 32) as usize
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

/// Two bits for every token in one word, by its hash: most pairs that merging looks up are no token, and this tells so
/// with one read.
fn hashes(tokens: &[&[u8]], bits: usize) -> Vec<u8> {
    let mut words = vec![0_u64; bits / 64];
    for token in tokens {
        let hash = hash(token);
        let word = (hash >> 38) as usize % words.len();
        words[word] |= 1 << (hash >> 32 & 63) | 1 << (hash >> 52 & 63);
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The id of every token of two ASCII characters by those, and `u32::MAX` where there is none: merging a word
/// starts with all its pairs.
fn pairs(tokens: &[&[u8]]) -> Vec<u8> {
    let mut pairs = vec![u32::MAX; 128 * 128];
    for (id, token) in (0..).zip(tokens) {
        if let [first @ ..0x80, second @ ..0x80] = **token {
            pairs[usize::from(first) << 7 | usize::from(second)] = id;
        }
    }
    pairs.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// Where tokens reach from one character into the next.
struct Borders {
    /// One bit by the hash of a pair: some token holds both characters.
    spans: Vec<u8>,
    /// By the last bits of a character, one bit for the last byte of the one before it: some token starts inside
    /// that one and holds this one, or the pair has to be treated as if it were so.
    starts: Vec<u64>,
    /// By the last byte of a character, one bit for the first byte of the next: some token ends inside that.
    ends: Vec<u64>,
}

impl Borders {
    fn of(tokens: &[&[u8]], ids: &HashMap<&[u8], usize>, span_bits: usize) -> Self {
        let mut borders = Self {
            spans: vec![0; span_bits / 8],
            starts: vec![0; STARTS],
            ends: vec![0; 256],
        };
        for (id, token) in tokens.iter().enumerate() {
            borders.add(token, is_made_of_characters(ids, id, token));
        }
        borders
    }

    fn add(&mut self, token: &[u8], is_simple: bool) {
        let starts_character = |at: usize| token[at] & 0xc0 != 0x80;
        for middle in (1..token.len()).filter(|&at| starts_character(at)) {
            let start = (0..middle).rev().find(|&at| starts_character(at));
            let last = token[middle - 1];
            let Some(right) = token.get(middle..middle + width(token[middle])) else {
                self.ends[usize::from(last)] |= 1 << (token[middle] & 0x3f);
                continue;
            };
            let right = join(right);
            if let Some(start) = start {
                let bit = pair_bit(join(&token[start..middle]), right) % (8 * self.spans.len());
                self.spans[bit / 8] |= 1 << (bit % 8);
            }
            if start.is_none() || !is_simple {
                self.starts[start_index(right)] |= 1 << (last & 0x3f);
            }
        }
    }
}

/// Whether merging bytes can make `token` only of whole characters, each of which is a token itself and is complete
/// before `token` could be made. Merging may then begin with characters in place of bytes.
fn is_made_of_characters(ids: &HashMap<&[u8], usize>, id: usize, token: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(token) else {
        // What is cut at its ends is told of by `starts` and `ends`.
        return true;
    };
    text.char_indices().all(|(at, character)| {
        let (parts, latest) = encode(ids, &token[at..at + character.len_utf8()]);
        parts == 1 && latest.is_none_or(|latest| latest < id)
    })
}

/// How many tokens some bytes make, and the highest id that was merged on the way.
fn encode(ids: &HashMap<&[u8], usize>, bytes: &[u8]) -> (usize, Option<usize>) {
    let mut borders: Vec<usize> = (0..=bytes.len()).collect();
    let mut latest = None;
    loop {
        let pairs = borders.windows(3).enumerate();
        let known = pairs.filter_map(|(at, pair)| Some((*ids.get(&bytes[pair[0]..pair[2]])?, at)));
        let Some((id, at)) = known.min() else {
            return (borders.len() - 1, latest);
        };
        latest = latest.max(Some(id));
        borders.remove(at + 1);
    }
}

/// How many tokens each character of the basic plane makes alone, in 2 bits; 0 for what is none.
fn characters(ids: &HashMap<&[u8], usize>) -> Vec<u8> {
    let mut counts = vec![0; 0x1_0000 / 4];
    for code in 0..0x1_0000 {
        let character = char::from_u32(code).map(String::from).unwrap_or_default();
        let count = encode(ids, character.as_bytes()).0;
        let count = u8::try_from(count).expect("no more than its 3 bytes");
        counts[code as usize / 4] |= count << (code % 4 * 2);
    }
    counts
}

/// By Chinese character, and then by mark, the number of its row below 2 bits: how many tokens more than one it makes
/// alone, or 3 when tokens that hold it are not made of whole characters. And all rows in one array, shifted so that
/// none is in another's places: at the sum of a row's number and a second character, that number above 2 bits, if some
/// token holds both characters side by side: whether they are a token, and whether they are in a longer one. All bits
/// are set where there is nothing.
fn han(tokens: &[&[u8]], ids: &HashMap<&[u8], usize>) -> (Vec<u16>, Vec<u16>) {
    let han = |bytes: &[u8]| {
        let character = std::str::from_utf8(bytes).ok()?.chars().next()?;
        let code = u32::from(character);
        let mark = MARKS.into_iter().flatten().position(|mark| mark == code);
        match code {
            _ if HAN.contains(&code) => Some((code - HAN.start) as usize),
            _ => Some(HAN.len() + mark?),
        }
    };
    let mut rows: Vec<u16> = HAN
        .chain(MARKS.into_iter().flatten())
        .map(|code| {
            let character = char::from_u32(code).map(String::from).unwrap_or_default();
            let count = encode(ids, character.as_bytes()).0 - 1;
            u16::try_from(count).expect("no more than its 3 bytes") << 14
        })
        .collect();
    let mut seconds: Vec<BTreeMap<usize, u16>> = vec![BTreeMap::new(); rows.len()];
    for (id, token) in tokens.iter().enumerate() {
        let is_simple = token.len() == 3 || is_made_of_characters(ids, id, token);
        let mut before: Option<usize> = None;
        for at in 0..token.len() {
            let character = token.get(at..at + 3).and_then(han);
            let Some(character) = character else {
                if token[at] & 0xc0 != 0x80 {
                    before = None;
                }
                continue;
            };
            let is_cut_before = token[..at].iter().all(|byte| byte & 0xc0 == 0x80);
            if !is_simple || (at > 0 && is_cut_before) {
                rows[character] = 3 << 14;
            }
            if let Some(before) = before.replace(character)
                && character < HAN.len()
            {
                let flags = seconds[before].entry(character).or_default();
                *flags |= if token.len() == 6 { 1 } else { 2 };
            }
        }
    }
    let mut firsts: Vec<usize> = (0..rows.len())
        .filter(|&at| !seconds[at].is_empty())
        .collect();
    firsts.sort_by_key(|&at| std::cmp::Reverse(seconds[at].len()));
    let mut pairs = vec![u16::MAX; HAN.len() + (1 << 14)];
    let mut is_used = vec![false; (1 << 14) - 1];
    for first in firsts {
        let fits = |row: usize| {
            let mut places = seconds[first].keys().map(|second| row + second);
            !is_used[row] && places.all(|at| pairs[at] == u16::MAX)
        };
        let row = (1..is_used.len())
            .find(|&row| fits(row))
            .expect("there are few pairs");
        is_used[row] = true;
        let number = u16::try_from(row).expect("14 bits");
        rows[first] |= number;
        for (second, flags) in &seconds[first] {
            pairs[row + second] = number << 2 | flags;
        }
    }
    let used = pairs.iter().rposition(|&pair| pair != u16::MAX);
    pairs.truncate(used.map_or(0, |last| last + 1));
    (rows, pairs)
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

/// The same function as in `src/input/vocabulary.rs`, as is the next one.
fn pair_bit(left: u32, right: u32) -> usize {
    let pair = u64::from(left) << 32 | u64::from(right);
    (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}

fn start_index(right: u32) -> usize {
    (right & 0x3f | right >> 2 & 0xfc0) as usize
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
    assert!(
        classes[0x4e00..0xa000].iter().all(|&class| class == 4),
        "all of these are letters without case, as `Scanner` takes them to be"
    );
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
