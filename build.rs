//! Writes the tables that `src/input/vocabulary.rs` and `src/input/pretoken.rs` are built around.
//!
//! Parsing a vocabulary takes tens of milliseconds, more than a whole run of this program may cost,
//! so it is done here, once, and the program only looks things up in constant bytes. Per encoding:
//! - `1.open` to `8.open`: open tables of the tokens of so many bytes, with those and the ids, in which a search mostly
//!   touches one cache line; `1` to `12`: smaller ones, in which it touches two, of those that are in none of these; `13`:
//!   of all longer ones; beside each, `pilots`;
//! - `shared` and `shared.ids`: which of the places in all tables of o200k have tokens of cl100k too, and with what ids;
//!   its own tables have only what is no token of o200k;
//! - `hashes`: a filter that says which hashes no token has;
//! - `spans`: a filter that says between which characters a token can reach;
//! - `starts` and `ends`: filters that say where it can do so from or into the middle of one;
//! - `pairs`: the ids of tokens of two characters of ASCII; `characters`: how many tokens a character makes alone;
//! - `han.rows` and `han.pairs`: which two Chinese characters are in a token together, and `han.marks`, which marks are in
//!   one with such a character.
//!
//! And one two-stage table, `classes`, with the character classes of the splitting rules.
//!
//! All integers are little-endian. Nothing depends on the machine or on the order of a hash map, so
//! the same crates give the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::path::{Path, PathBuf};

use bpe_openai::Tokenizer;
use regex_syntax::hir::{Class, HirKind};

use pack::{Ids, Tables};
use place::{ID_BITS, PRINTABLE};

#[path = "src/input/pack.rs"]
mod pack;
#[path = "src/input/place.rs"]
mod place;

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

/// What a plain run never comes to, by crate or module: the keyring, TLS, schemas, patterns, compression, batches, other
/// commands than asking, what is shown on a terminal or after a panic. `valgrind --tool=callgrind` names all that a run of
/// an unstripped program does come to.
const SELDOM: &str = "
    addr2line aes aho_corasick async_broadcast async_channel async_compression async_executor async_io async_lock
    async_process async_signal async_task blocking cbc compression_codecs console core::slice::sort crc32fast
    data_encoding email_address enumflags2 event_listener event_listener_strategy fancy_regex flate2 fluent_uri fraction
    futures_lite gimli gptpipe::api::batch gptpipe::cli::completion gptpipe::command gptpipe::demo
    gptpipe::output::schema gptpipe::pipeline::batch gptpipe::pipeline::collect gptpipe::pipeline::gather
    gptpipe::run::batch gptpipe::run::batches gptpipe::run::keys gptpipe::run::login gptpipe::run::reports
    gptpipe::secret::command gptpipe::secret::keyring gptpipe::secret::oauth gptpipe::secret::oauth_session
    gptpipe::secret::oauth_token gptpipe::store::batch gptpipe::store::intake gptpipe::store::usage h2 hkdf hmac
    httpdate hyper::proto::h2 indicatif jsonschema jsonschema_regex jsonschema_value keyring keyring_core miniz_oxide
    num_bigint num_cmp num_rational num_traits openssl_probe ordered_stream parking polling prometheus_client referencing
    regex regex_automata regex_syntax ring rpassword rustc_demangle rustls secret_service sha2 strsim
    unicode_general_category unit_prefix uuid_simd vsimd webpki zbus zbus_names zbus_secret_service_keyring_store
    zvariant zvariant_utils";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/input/place.rs");
    println!("cargo:rerun-if-changed=src/input/pack.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let out = Path::new(&out);
    link_small(out);
    let o200k = write_vocabulary(out, "o200k", bpe_openai::o200k_base(), 1 << 19, None);
    write_vocabulary(
        out,
        "cl100k",
        bpe_openai::cl100k_base(),
        1 << 18,
        Some(&o200k),
    );
    write_classes(out);
}

/// Has the linker write down what the loader has to put in place in a twentieth of the room (`RELR`): the loader reads all
/// of it at every start. glibc has to know it, as it does from 2.36 on. And has what a plain run never comes to put
/// together, away from the rest: a page that is touched brings its neighbours in, so that they had better be of use.
fn link_small(out: &Path) {
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_OS", "linux") || !is("PROFILE", "release") || !knows_scripts() {
        return;
    }
    let is_static = is("CARGO_CFG_TARGET_ENV", "musl");
    let is_here = std::env::var("HOST").ok() == std::env::var("TARGET").ok();
    if is_static || is_here && has_relr() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if !is_static && is_here {
        link_unwinder(out);
    }
    let mut script = seldom();
    if is_static {
        // A program without a loader puts itself in place. Such a one that panics ends there and then, so that what
        // tells how to go back through its functions is left out.
        script.push_str("SECTIONS { /DISCARD/ : { *(EXCLUDE_FILE(*crtbegin*.o *crtend*.o) .eh_frame) } } INSERT BEFORE .text;\n");
    }
    write(out, "seldom.ld", script.as_bytes());
    let path = out.join("seldom.ld");
    println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", path.display());
}

/// Whether it is one of the linkers that take a script in addition to their own, as rustc's and GNU's do.
fn knows_scripts() -> bool {
    let told = ["CARGO_ENCODED_RUSTFLAGS", "RUSTC_LINKER", "LD_PRELOAD"];
    let told = told.map(|name| std::env::var(name).unwrap_or_default());
    let others = ["gold", "mold", "wild"];
    !others
        .iter()
        .any(|other| told.iter().any(|told| told.contains(other)))
}

/// Has what goes back through functions linked in from GCC's archive. Only a panic comes to it, and to load the library
/// that has it takes every start longer. rustc asks for that library by name, so what is found under the name first is
/// a script that means the archive, and the one with what that may need in turn.
fn link_unwinder(out: &Path) {
    let archive = said("cc", "-print-file-name=libgcc_eh.a").map(PathBuf::from);
    // Without an archive it is the bare name.
    if let Some(archive) = archive.filter(|archive| archive.is_absolute()) {
        let script = format!("GROUP({} -lgcc)\n", archive.display());
        let folder = out.join("unwinder");
        std::fs::create_dir_all(&folder).expect("OUT_DIR is writable");
        write(&folder, "libgcc_s.so", script.as_bytes());
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
}

/// Whether this machine's C library is glibc and knows `RELR`.
fn has_relr() -> bool {
    let version = said("getconf", "GNU_LIBC_VERSION").unwrap_or_default();
    let minor = version
        .strip_prefix("glibc 2.")
        .and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 36)
}

/// What `program` says of this machine, in one line.
fn said(program: &str, argument: &str) -> Option<String> {
    let output = std::process::Command::new(program).arg(argument).output();
    let line = String::from_utf8(output.ok()?.stdout).ok()?;
    Some(line.trim_end().to_owned())
}

/// A linker script that puts the functions of `SELDOM` into a section of their own. The names are those that rustc gives
/// functions, those of a type's parts among them; a name that is none any more costs nothing but its place here.
fn seldom() -> String {
    let mut script = String::from("SECTIONS { .text.seldom : {\n");
    for path in SELDOM.split_whitespace() {
        let parts: Vec<&str> = path.split("::").collect();
        let own = parts.iter().fold(String::new(), |own, part| {
            own + &part.len().to_string() + part
        });
        let of_type = parts.join("..");
        let names = [
            format!("_ZN{own}*"),
            format!("_ZN*${of_type}..*"),
            format!("_R*_{own}*"),
        ];
        script.extend(names.map(|name| format!("*(.text.{name})\n")));
    }
    // What is written for people who look for faults in programs; and cryptography that is not written in Rust.
    script += "*(.text._ZN*core..fmt..Debug$GT$3fmt*)\n*libring-*:(.text .text.*)\n";
    script + "} } INSERT AFTER .text;\n"
}

fn write(out: &Path, name: &str, bytes: &[u8]) {
    std::fs::write(out.join(name), bytes).expect("OUT_DIR is writable");
}

fn write_vocabulary(
    out: &Path,
    name: &str,
    tokenizer: &'static Tokenizer,
    span_bits: usize,
    shared: Option<&HashMap<&[u8], usize>>,
) -> HashMap<&'static [u8], usize> {
    let tokens: Vec<&[u8]> = (0..tokenizer.bpe.num_tokens())
        .map(|id| {
            tokenizer
                .bpe
                .token_bytes(u32::try_from(id).expect("ids are 32 bits"))
        })
        .collect();
    assert!(tokens.len() < (1 << ID_BITS) - 1, "ids fit in an entry");
    assert!(tokens.iter().all(|token| (1..=128).contains(&token.len())));

    let ids: Ids = tokens.iter().copied().zip(0..).collect();
    let tables = Tables::new(&ids, shared);
    for (file, bytes) in tables.files {
        write(out, &format!("{name}.{file}"), &bytes);
    }
    write(out, &format!("{name}.pairs"), &pairs(&ids));
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
    let (index, starts) = distinct(borders.starts.chunks(1));
    write(out, &format!("{name}.starts.index"), &index);
    write(out, &format!("{name}.starts"), &bytes(&starts));
    write(out, &format!("{name}.ends"), &bytes(&borders.ends));
    tables.places
}

/// The id and 1 of every token of two printable characters of ASCII by those, in 3 bytes, and 0 where there is none:
/// merging a word starts with all its pairs.
fn pairs(ids: &Ids) -> Vec<u8> {
    let pairs = PRINTABLE.flat_map(|first| PRINTABLE.map(move |second| [first, second]));
    let mut pairs: Vec<u8> = pairs
        .flat_map(|pair| {
            let id = ids.get(&pair[..]).map_or(0, |id| id + 1);
            id.to_le_bytes().into_iter().take(3)
        })
        .collect();
    // The last one, too, is read as if it were of 4 bytes.
    pairs.push(0);
    pairs
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
    fn of(tokens: &[&[u8]], ids: &Ids, span_bits: usize) -> Self {
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
fn is_made_of_characters(ids: &Ids, id: usize, token: &[u8]) -> bool {
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
fn encode(ids: &Ids, bytes: &[u8]) -> (usize, Option<usize>) {
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
fn characters(ids: &Ids) -> Vec<u8> {
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
fn han(tokens: &[&[u8]], ids: &Ids) -> (Vec<u16>, Vec<u16>) {
    let han = |bytes: &[u8]| {
        let character = std::str::from_utf8(bytes).ok()?.chars().next()?;
        let code = u32::from(character);
        if HAN.contains(&code) {
            return Some((code - HAN.start) as usize);
        }
        let mark = MARKS.into_iter().flatten().position(|mark| mark == code);
        Some(HAN.len() + mark?)
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
    let (index, blocks) = distinct(classes.chunks(BLOCK));
    write(out, "classes.index", &index);
    write(out, "classes.blocks", &blocks);
}

/// A byte per block that says which of the distinct ones it is; then those blocks.
fn distinct<'b, T: Copy + Eq + Hash + 'b>(
    blocks: impl Iterator<Item = &'b [T]>,
) -> (Vec<u8>, Vec<T>) {
    let (mut index, mut all, mut numbers) = (Vec::new(), Vec::new(), HashMap::new());
    for block in blocks {
        let next = numbers.len();
        let number = *numbers.entry(block).or_insert_with(|| {
            all.extend(block);
            next
        });
        index.push(u8::try_from(number).expect("at most 256 distinct blocks"));
    }
    (index, all)
}
