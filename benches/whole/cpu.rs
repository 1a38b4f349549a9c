//! Processor time for tokens that come as fast as they can be taken: gptpipe
//! beside curl, which throws them away unread, and beside the Python SDK.

#![expect(clippy::print_stdout, reason = "tables are what a benchmark is for")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::child::{self, Run};
use crate::figures::{Spread, first_line, table};
use crate::start::find;
use crate::{Lab, runs};

const REPLIES: usize = 10_000;
const TOKENS: usize = 200;
const JOBS: &str = "64";

/// Replies that the SDK is asked for: so many tokens cost it minutes, and each the same.
const SDK_REPLIES: usize = 1_000;

/// Asks for replies with the SDK, as many at a time as the others, and prints the processor seconds
/// that this took without the import.
const SCRIPT: &str = r#"
import asyncio, sys, time
from openai import AsyncOpenAI
url, count, jobs, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
async def main():
    client = AsyncOpenAI(base_url=url, api_key="sk-benchmark")
    gate = asyncio.Semaphore(jobs)
    async def ask(number):
        async with gate:
            stream = await client.chat.completions.create(
                model="echo", stream=True, messages=[{"role": "user", "content": f"{number} is a line"}])
            pieces = 0
            async for event in stream:
                if event.choices and event.choices[0].delta.content:
                    pieces += 1
            assert pieces == tokens, pieces
    await asyncio.gather(*(ask(number) for number in range(count)))
began = time.process_time()
asyncio.run(main())
print(time.process_time() - began)
"#;

pub(crate) fn measure(lab: &Lab) {
    let base_url = format!("{}/tokens/{TOKENS}/v1", lab.address);
    let input = lab.folder.join("replies");
    let lines = (0..REPLIES).fold(String::new(), |mut lines, number| {
        let _ = writeln!(lines, "{number} is a line");
        lines
    });
    child::write(&input, lines.as_bytes());
    let count = runs(5);
    let gptpipe = |option: &str| {
        let mut command = lab.gptpipe(&base_url);
        command.args(["-q", "-b", "line", "-j", JOBS, option, "answer"]);
        let run = child::run(&mut command, &input);
        let lines = memchr::memchr_iter(b'\n', &run.output).count();
        assert_eq!(lines, REPLIES, "replies");
        Run {
            output: Vec::new(),
            ..run
        }
    };
    let curl = find("curl");
    let (mut plain, mut stored, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..count {
        plain.push(gptpipe("--no-cache"));
        stored.push(gptpipe("--refresh"));
        if let Some(curl) = &curl {
            raw.push(ask_with_curl(lab, curl, &base_url));
        }
    }
    let mut rows = Vec::new();
    let mut row = |name: &str, seconds: Vec<f64>, replies: usize| {
        #[expect(clippy::cast_precision_loss, reason = "few tokens")]
        let millions = (replies * TOKENS) as f64 / 1e6;
        let seconds = Spread::of(seconds.iter().map(|all| all / millions).collect());
        let mut row = vec![name.to_owned(), replies.to_string()];
        row.extend(seconds.cells(2));
        rows.push(row);
        seconds.median
    };
    let cpu = |runs: &[Run]| runs.iter().map(|run| run.cpu.as_secs_f64()).collect();
    let ours = row("gptpipe `--no-cache`", cpu(&plain), REPLIES);
    row("gptpipe, every reply stored", cpu(&stored), REPLIES);
    let mut beside = String::new();
    if curl.is_some() {
        let curl = row("`curl --parallel`, raw", cpu(&raw), REPLIES);
        let _ = write!(beside, "gptpipe ÷ curl: {:.2}. ", ours / curl);
    } else {
        println!("not measured: curl is not installed\n");
    }
    match ask_with_sdk(lab, &base_url) {
        Ok((name, seconds)) => {
            let sdk = row(&name, vec![seconds], SDK_REPLIES);
            let _ = write!(beside, "SDK ÷ gptpipe: {:.1}.", sdk / ours);
        }
        Err(missing) => println!("not measured: {missing}\n"),
    }
    println!(
        "### Processor time\n\nProcessor seconds for a million tokens, in replies of {TOKENS} at full speed, {JOBS} \
         at a time; an event and a chunk of the body for each token. Runs: {count}, in turn; the SDK's one, \
         without its import.\n"
    );
    let head = ["", "replies", "min s", "median s", "max s"];
    println!("{}", table(&head, &rows));
    println!("{beside}\n");
}

/// The same requests, and everything that comes thrown away.
fn ask_with_curl(lab: &Lab, curl: &Path, base_url: &str) -> Run {
    let mut command = lab.command(curl);
    command
        .stderr(Stdio::null())
        .args(["-s", "-N", "--parallel", "--parallel-max", JOBS])
        .args(["-H", "Content-Type: application/json"])
        .args(["-H", "Authorization: Bearer sk-benchmark"])
        .args([
            "--data-binary",
            r#"{"model":"echo","stream":true,"messages":[{"role":"user","content":"1 is a line"}]}"#,
        ])
        .args(["-o", "/dev/null"])
        .arg(format!("{base_url}/chat/completions?[1-{REPLIES}]"));
    child::run(&mut command, Path::new("/dev/null"))
}

/// The SDK's name and its processor seconds; else what is missing.
fn ask_with_sdk(lab: &Lab, base_url: &str) -> Result<(String, f64), String> {
    let python = std::env::var_os("PYTHON")
        .map(PathBuf::from)
        .or_else(|| find("python3"))
        .ok_or("python3 is not installed")?;
    let mut version = Command::new(&python);
    version.args(["-c", "import openai; print(openai.__version__)"]);
    let known = version.output().is_ok_and(|output| output.status.success());
    if !known {
        let python = python.display();
        return Err(format!(
            "{python} has no package `openai` (`pip install openai`, and name the Python in PYTHON)"
        ));
    }
    let name = format!("`AsyncOpenAI` {}", first_line(&mut version));
    let script = lab.folder.join("sdk.py");
    child::write(&script, SCRIPT.as_bytes());
    let mut command = lab.command(&python);
    command
        .arg(&script)
        .args([base_url, &SDK_REPLIES.to_string(), JOBS])
        .arg(TOKENS.to_string());
    let run = child::run(&mut command, Path::new("/dev/null"));
    let printed = String::from_utf8_lossy(&run.output);
    let seconds = printed.trim().parse();
    let seconds = seconds.map_err(|_| format!("the SDK printed `{}`", printed.trim()))?;
    Ok((name, seconds))
}
