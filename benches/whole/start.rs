//! Start-up: the version, and one chunk of 1 KB through a server that answers
//! at once, beside curl and aichat doing the same.
//!
//! Every run has its own number in the text, so that nothing that remembers
//! replies can spare itself the request.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::child::{self, Run};
use crate::figures::{Spread, first_line, table};
use crate::server::{Reader, echo};
use crate::{Lab, prose, runs};

/// Stands in the text for the number of the run, and is as long as it.
const MARK: &str = "0000000";

/// What the text begins with: never a second time the same.
const FIRST_WORD: &str = "Run ";

const PROMPT: &str = "summarize";

pub(crate) fn measure(lab: &Lab) {
    version(lab);
    one_chunk(lab);
    counting(lab);
}

/// A program in the comparison.
struct Rival {
    name: &'static str,
    make: Box<dyn Fn(&Lab) -> Command>,
    /// Whether it reads the request's body and not the text.
    wants_body: bool,
    runs: Vec<Run>,
}

impl Rival {
    fn new(name: &'static str, make: impl Fn(&Lab) -> Command + 'static) -> Self {
        Self {
            name,
            make: Box::new(make),
            wants_body: false,
            runs: Vec::new(),
        }
    }

    fn wall(&self) -> Spread {
        Spread::of(
            self.runs
                .iter()
                .map(|run| run.wall.as_secs_f64() * 1e3)
                .collect(),
        )
    }

    fn peak(&self) -> Spread {
        Spread::of(self.runs.iter().map(|run| run.peak).collect())
    }
}

fn version(lab: &Lab) {
    let mut rivals = vec![Rival::new("`gptpipe --version`", |lab| {
        let mut command = lab.command(env!("CARGO_BIN_EXE_gptpipe"));
        command.arg("--version");
        command
    })];
    if find("true").is_some() {
        rivals.push(Rival::new("`true`, which does nothing", |lab| {
            lab.command("true")
        }));
    }
    let count = runs(60);
    for _ in 0..count {
        for rival in &mut rivals {
            let run = child::run(&mut (rival.make)(lab), Path::new("/dev/null"));
            rival.runs.push(run);
        }
    }
    println!("### Start: nothing to do\n\nRuns of each: {count}, in turn.\n");
    show(&rivals);
}

fn one_chunk(lab: &Lab) {
    let text = format!("{FIRST_WORD}{MARK}. {}", &prose::english(1024, 1)[..1024]);
    let text = text.trim_end();
    let body = body_of(lab, text);
    let url = format!("{}/v1/chat/completions", lab.address);
    let base_url = format!("{}/v1", lab.address);
    // The system maps what a linker wrote in small pieces, and a copy, as an installation leaves it, in larger ones.
    let copy = lab.folder.join("gptpipe");
    fs::copy(env!("CARGO_BIN_EXE_gptpipe"), &copy).expect("a copy of the program");
    let programs = [
        ("gptpipe", PathBuf::from(env!("CARGO_BIN_EXE_gptpipe"))),
        ("gptpipe, installed", copy),
    ];
    let mut rivals: Vec<Rival> = programs
        .map(|(name, program)| {
            let base_url = base_url.clone();
            Rival::new(name, move |lab| {
                let mut command = lab.gptpipe_at(&program, &base_url);
                command.args(["-q", PROMPT]);
                command
            })
        })
        .into();
    let mut missing = Vec::new();
    let mut beside = String::new();
    match find("curl") {
        Some(curl) => {
            let mut rival = Rival::new("`curl -sN`, the same body", move |lab| {
                let mut command = lab.command(&curl);
                command
                    .args(["-sN", "-H", "Content-Type: application/json", "-H"])
                    .args(["Authorization: Bearer sk-benchmark"])
                    .args(["--data-binary", "@-", &url]);
                command
            });
            rival.wants_body = true;
            rivals.push(rival);
        }
        None => missing.push("not measured: curl is not installed"),
    }
    let aichat = std::env::var_os("AICHAT")
        .map(PathBuf::from)
        .or_else(|| find("aichat"));
    match aichat {
        Some(aichat) => {
            let version = first_line(Command::new(&aichat).arg("--version"));
            beside = format!("; beside {version}");
            for (name, stream) in [("`aichat -S`", false), ("`aichat`, streaming", true)] {
                let folder = configure_aichat(lab, stream);
                let aichat = aichat.clone();
                rivals.push(Rival::new(name, move |lab| {
                    let mut command = lab.command(&aichat);
                    command.env("AICHAT_CONFIG_DIR", &folder);
                    if !stream {
                        command.arg("-S");
                    }
                    command.arg(PROMPT);
                    command
                }));
            }
        }
        None => missing.push("not measured: aichat is not installed (cargo install aichat)"),
    }
    let count = runs(60);
    let input = lab.folder.join("input");
    // The first round is not counted: what is made once, such as a database, is made there.
    for round in 0..=count {
        for (at, rival) in rivals.iter_mut().enumerate() {
            let number = format!("{:07}", round * 10 + at + 1);
            let source = if rival.wants_body { &body } else { text };
            child::write(&input, source.replacen(MARK, &number, 1).as_bytes());
            let run = child::run(&mut (rival.make)(lab), &input);
            let output = String::from_utf8_lossy(&run.output);
            assert!(
                output.contains(&number),
                "{} did not answer: {output}",
                rival.name
            );
            if rival.name == "gptpipe" {
                assert_eq!(output.trim_end(), text.replacen(MARK, &number, 1));
            }
            if round > 0 {
                rival.runs.push(run);
            }
        }
    }
    println!(
        "### Start: one chunk\n\nRuns of each: {count}, in turn; {} bytes of text, a body of {} bytes, \
         a server that answers at once{beside}.\n",
        text.len(),
        body.len()
    );
    show(&rivals);
    for line in missing {
        println!("{line}\n");
    }
}

/// A run that has to count tokens beside one that does not: what is shorter than the bound in bytes
/// cannot have more tokens, so the bound alone makes the difference.
fn counting(lab: &Lab) {
    let count = runs(60);
    println!(
        "### Start: tokens counted\n\nRuns of each: {count}, in turn; one chunk, one request; the larger text is \
         there for the memory, since each word looks at other parts of the vocabulary.\n"
    );
    let base_url = format!("{}/v1", lab.address);
    let bounds = [
        [(1024, "2000"), (1024, "1000")],
        [(1 << 17, "200000"), (1 << 17, "100000")],
    ];
    for [plain, counted] in bounds {
        let mut rivals = [plain, counted].map(|(_, bound)| {
            let base_url = base_url.clone();
            Rival::new(bound, move |lab| {
                let mut command = lab.gptpipe(&base_url);
                command.args(["-q", "--no-cache", "-c", bound, PROMPT]);
                command
            })
        });
        let text = &prose::english(plain.0, 1)[..plain.0];
        let input = lab.folder.join("input");
        child::write(&input, text.as_bytes());
        for _ in 0..count {
            for rival in &mut rivals {
                let run = child::run(&mut (rival.make)(lab), &input);
                assert!(run.output == text.as_bytes(), "the echo differs");
                rival.runs.push(run);
            }
        }
        rivals[0].name = "not counted";
        rivals[1].name = "counted";
        let kib = plain.0 >> 10;
        let difference = |of: fn(&Rival) -> Spread| of(&rivals[1]).median - of(&rivals[0]).median;
        println!(
            "{kib} KiB: counting adds {:.2} ms and {:.1} MiB.\n",
            difference(Rival::wall),
            difference(Rival::peak)
        );
        show(&rivals);
    }
}

/// Prints the comparison; ratios are those of the first to each.
fn show(rivals: &[Rival]) {
    let first = rivals[0].wall().median;
    let rows: Vec<Vec<String>> = rivals
        .iter()
        .map(|rival| {
            let wall = rival.wall();
            let mut row = vec![rival.name.to_owned()];
            row.extend(wall.cells(2));
            row.push(format!("{:.2}", first / wall.median));
            row.push(format!("{:.1}", rival.peak().max));
            row
        })
        .collect();
    let head = [
        "program",
        "min ms",
        "median ms",
        "max ms",
        "gptpipe ÷ this",
        "peak MiB",
    ];
    println!("{}", table(&head, &rows));
}

/// The body that gptpipe sends for a text, taken down on the way.
fn body_of(lab: &Lab, text: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let base_url = format!("http://{}/v1", listener.local_addr().expect("its address"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("gptpipe connects");
        let mut reader = Reader::default();
        let request = reader
            .request(&mut stream)
            .expect("a connection")
            .expect("a request");
        let body = request.body.to_vec();
        let mut out = Vec::new();
        echo(&body, &mut out);
        std::io::Write::write_all(&mut stream, &out).expect("gptpipe listens");
        body
    });
    let input = lab.folder.join("input");
    child::write(&input, text.as_bytes());
    child::run(lab.gptpipe(&base_url).args(["-q", PROMPT]), &input);
    let body = server.join().expect("the body");
    String::from_utf8(body).expect("JSON")
}

/// A configuration folder for aichat, with this server as its only model.
fn configure_aichat(lab: &Lab, stream: bool) -> PathBuf {
    let folder = lab.folder.join(format!("aichat-{stream}"));
    std::fs::create_dir_all(&folder).expect("a folder for aichat");
    let config = format!(
        "model: local:echo\nstream: {stream}\nsave: false\nclients:\n- type: openai-compatible\n  \
         name: local\n  api_base: {}/v1\n  api_key: sk-benchmark\n  models:\n  - name: echo\n",
        lab.address
    );
    child::write(&folder.join("config.yaml"), config.as_bytes());
    folder
}

/// A program on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join(name));
    found.into_iter().find(|file| {
        file.is_file()
            && Command::new(file)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok()
    })
}
