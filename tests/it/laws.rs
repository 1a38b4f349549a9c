//! What holds for every input: with a model that repeats what it is told the program is `cat`, and
//! no chunk exceeds its bound. The texts are random; a failure tells its seed.

use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bpe_openai::Tokenizer;
use unicode_segmentation::UnicodeSegmentation as _;

use crate::harness::{Random, gptpipe};
use crate::server::{Request, Server};

const PROSE: [&str; 12] = [
    "It was the best of times, it was the worst of times. ",
    "Dr. Smith (of St. Mary's, U.S.A.) paid $3.14 for v1.2.3! ",
    "See https://example.com/a?b=c.\nThen he left. ",
    "Who? Me? No... Yes!\n",
    "\n\n",
    "# A heading\n\n- an item\n- another\n\n```rust\nfn main() {}\n```\n",
    "wordwithoutanyspacethatgoesonandonandonandonandonandonandonandonandonandon",
    "他说：“今天很好。”然后就走了。你呢？我也很好！",
    "日本語の文章です。とても長いので、分けなければなりません。",
    "Größe, naïve, Ελληνικά, русский, العربية، עברית. ",
    "a,b,c\n1,2,3\n\"x y\",,\n",
    "{\"key\": [1, 2, {\"deep\": null}]}",
];

const ODD: [&str; 26] = [
    " ",
    "  ",
    "\n",
    "\r\n",
    "\r",
    "\t",
    "\n\n\n",
    "\u{a0}",
    "\u{3000}",
    "\u{2003}",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{200b}",
    "\u{1}",
    "\u{1b}[31m",
    "👨‍👩‍👧‍👦",
    "🇩🇪🇫🇷",
    "e\u{301}\u{327}",
    "🏳️‍🌈",
    "\u{301}",
    "<|endoftext|>",
    "x",
    "。",
    "\u{10ffff}",
];

/// A text of about so many bytes.
fn text(random: &mut Random, bytes: usize) -> String {
    let mut text = String::new();
    let flavour = random.below(4);
    while text.len() < bytes {
        let piece = match (flavour, random.below(10)) {
            (0, 0) | (1, 0..5) | (2, _) => *random.pick(&ODD),
            _ => *random.pick(&PROSE),
        };
        let times = if random.below(40) == 0 { 30 } else { 1 };
        text.push_str(&piece.repeat(times));
    }
    text
}

fn count(model: &str, text: &str) -> usize {
    static O200K: OnceLock<&Tokenizer> = OnceLock::new();
    if model == "gpt-4" {
        return bpe_openai::cl100k_base().count(text);
    }
    O200K.get_or_init(bpe_openai::o200k_base).count(text)
}

/// So many random runs, each over another text with other options.
fn runs(count_of_runs: usize) {
    let random = Mutex::new(Random::new());
    for number in 0..count_of_runs {
        let mut dice = random.lock().unwrap();
        let max_tokens = match dice.below(4) {
            0 => 50 + dice.below(1000),
            _ => 1 + dice.below(50),
        };
        // About fifty requests at most.
        let bytes = dice.below(max_tokens * 150).min(20_000);
        let text = text(&mut dice, bytes);
        let by = *dice.pick(&["sentence", "paragraph", "line", "file"]);
        let model = if dice.below(8) == 0 {
            "gpt-4"
        } else {
            "gpt-4o"
        };
        let jobs = 1 + dice.below(16);
        let api = *dice.pick(&["chat", "chat", "responses"]);
        let delays: Vec<u64> = (0..16).map(|_| dice.below(4) as u64).collect();
        drop(dice);
        let server = Server::start(move |request: &Request| {
            request
                .echo()
                .after(Duration::from_millis(delays[request.ordinal % 16]))
        });
        let numbers = [max_tokens.to_string(), jobs.to_string()];
        let args = [
            "p",
            "-m",
            model,
            "-b",
            by,
            "-c",
            &numbers[0],
            "-j",
            &numbers[1],
            "--api",
            api,
        ];
        let run = gptpipe().ask(&server).args(args).input(&text).run();
        // In records a line end inside a chunk, as CR or U+2028 can be, is the record's own.
        run.must(
            run.code == Some(0),
            &format!("run {number} of this seed must end with 0"),
        )
        .stdout(&text);
        for request in server.requests() {
            let chunk = &request.text;
            assert!(
                !chunk.is_empty() && chunk.trim() == chunk,
                "white space is held out: {chunk:?}"
            );
            let tokens = count(model, chunk);
            let is_grapheme = chunk.graphemes(true).count() == 1;
            run.must(
                by == "file" || tokens <= max_tokens || is_grapheme,
                &format!("{tokens} tokens, though -c is {max_tokens}: {chunk:?}"),
            );
        }
        assert!(server.log(|log| log.most_in_flight) <= jobs);
    }
}

#[test]
fn nothing_is_lost_and_every_chunk_fits() {
    runs(60);
}

/// The same on another thread: two processors are usual.
#[test]
fn nothing_is_lost_and_every_chunk_fits_again() {
    runs(60);
}

#[test]
fn chunks_do_not_depend_on_how_input_arrives() {
    let mut random = Random::new();
    for _ in 0..8 {
        let text = text(&mut random, 1500);
        let by = *random.pick(&["sentence", "paragraph", "line"]);
        let max_tokens = (5 + random.below(60)).to_string();
        let chunks = |sizes: &mut dyn FnMut() -> usize| {
            let server = Server::echo();
            let run = gptpipe()
                .ask(&server)
                .args(["p", "-j", "1", "-b", by, "-c", &max_tokens]);
            let mut run = run.hold_input().start();
            let mut rest = text.as_bytes();
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(sizes().min(rest.len()));
                run.feed(piece);
                rest = more;
            }
            run.finish().ok().stdout(&text);
            server
                .requests()
                .iter()
                .map(|request| request.text.clone())
                .collect::<Vec<_>>()
        };
        let whole = chunks(&mut || usize::MAX);
        assert_eq!(
            chunks(&mut || 1 + random.below(40)),
            whole,
            "--by {by} -c {max_tokens}"
        );
    }
}

/// An edit near the beginning leaves most of the later chunks as they were.
#[test]
fn an_edit_does_not_move_every_later_chunk() {
    let mut random = Random::new();
    let mut text = String::new();
    while text.len() < 30_000 {
        let sentence: &&str = random.pick(&PROSE[..4]);
        text.push_str(sentence);
        text.push_str(&random.below(1000).to_string());
        text.push_str(". ");
    }
    let chunks = |text: &str| {
        let server = Server::echo();
        gptpipe()
            .ask(&server)
            .args(["p", "-c", "200"])
            .input(text)
            .run()
            .ok();
        server
            .requests()
            .iter()
            .map(|request| request.text.clone())
            .collect::<Vec<_>>()
    };
    let before = chunks(&text);
    let after = chunks(&format!(
        "A new first sentence, put before all others. {text}"
    ));
    let same = before.iter().filter(|chunk| after.contains(chunk)).count();
    assert!(
        same * 2 > before.len(),
        "{same} of {} chunks stayed what they were",
        before.len()
    );
}
