//! The fault matrix: whatever a network or a server does, no reply is lost, none is paid for twice,
//! and no broken one passes for whole.
//!
//! A [`Fault`] is what a server does in place of answering. Those that pass are met by a run of
//! many chunks, each with some probability at its first attempt, and then the server's own count has
//! to be right to the request. Those that do not pass have to end the run honestly. The rooms below
//! say which faults.

mod body; // replies that break off, are cut short or say that something went wrong
mod connection; // connections that cannot be made, are refused or are not secure
mod fatal; // what no further attempt can mend: exit status, message, and nothing asked afterwards
mod halves; // texts that are too long for the model, and servers that drop a part of them
mod http2; // streams that are reset, and connections that are told to go away
mod live; // replies that break off after somebody saw their beginning
mod patience; // how often and how long: retries, waits, and what all requests wait for
mod status; // statuses that pass, with everything that servers put beside them
mod summary; // runs that go on after a failure, and what they say in the end

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Outcome, Random, gptpipe};
use crate::server::{Answer, Request, Server};

/// Chunks of a run that meets faults.
const CHUNKS: usize = 500;

/// How probable it is that a chunk meets a fault at its first attempt.
const PROBABILITIES: [f64; 3] = [0.05, 0.3, 1.0];

/// Runs of one test at a time: most of the time they wait.
const AT_A_TIME: usize = 6;

type Commit = Box<dyn Fn(&Request, usize) -> Answer + Send + Sync>;

/// What a server does wrong with the chunk of this number, from 0.
struct Fault {
    name: String,
    commit: Commit,
    /// The least time until the chunk may be asked about again.
    wait: Duration,
    /// The reply is whole all the same, so that nothing is asked again.
    is_harmless: bool,
}

impl Fault {
    fn new(
        name: impl Into<String>,
        commit: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            commit: Box::new(commit),
            wait: Duration::ZERO,
            is_harmless: false,
        }
    }

    fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    fn harmless(mut self) -> Self {
        self.is_harmless = true;
        self
    }

    /// The row of this fault alone.
    fn alone(self, args: &[&'static str]) -> Row {
        Row::new([self], args)
    }
}

/// A run that meets these faults, chunk by chunk in turn.
struct Row {
    faults: Vec<Fault>,
    args: Vec<&'static str>,
}

impl Row {
    fn new(faults: impl IntoIterator<Item = Fault>, args: &[&'static str]) -> Self {
        Self {
            faults: faults.into_iter().collect(),
            args: args.to_vec(),
        }
    }

    fn fault(&self, number: usize) -> &Fault {
        &self.faults[number % self.faults.len()]
    }

    /// A run in which chunks meet the faults with this probability.
    fn run(self: &Arc<Self>, probability: f64, seed: usize) {
        let began = Instant::now();
        let met = Mutex::<HashSet<usize>>::default();
        let row = Arc::clone(self);
        let server = Server::start(move |request| {
            let number = number(request);
            if meets(seed, number, probability) && met.lock().unwrap().insert(number) {
                (row.fault(number).commit)(request, number)
            } else {
                request.echo()
            }
        });
        let outcome = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line"])
            .args(&self.args)
            .input(text())
            // It shares the machine with other runs.
            .patient()
            .run();
        outcome.ok().stdout(undisturbed());
        self.count(&server, &outcome, probability, seed);
        told(&format!(
            "{} p = {probability}: {} requests in {:.1} s",
            self.faults[0].name,
            server.calls(),
            began.elapsed().as_secs_f64()
        ));
    }

    /// Every chunk was asked about once, and once more where it met a fault, after the wait that
    /// was asked for.
    fn count(&self, server: &Server, outcome: &Outcome, probability: f64, seed: usize) {
        let requests = server.requests();
        let mut asked: HashMap<usize, Vec<&Request>> = HashMap::new();
        for request in &requests {
            asked.entry(number(request)).or_default().push(request);
        }
        let mut tally: Vec<[usize; 3]> = vec![[0; 3]; self.faults.len()];
        for number in 0..CHUNKS {
            let fault = self.fault(number);
            let has_failed = meets(seed, number, probability) && !fault.is_harmless;
            let counts = &mut tally[number % self.faults.len()];
            let times = asked.get(&number).map_or(0, Vec::len);
            *counts = [
                counts[0] + times,
                counts[1] + 1,
                counts[2] + usize::from(has_failed),
            ];
            let scene = format!("{}, p = {probability}, seed {seed}", fault.name);
            outcome.must(
                times == 1 + usize::from(has_failed),
                &format!("{scene}: chunk {number} was asked about {times} times"),
            );
            if let [first, second] = asked[&number][..] {
                let waited = second.arrived - first.arrived;
                outcome.must(
                    waited >= fault.wait,
                    &format!("{scene}: chunk {number} waited only {waited:?}"),
                );
                outcome.must(
                    first.body == second.body,
                    &format!("{scene}: chunk {number} was asked about in another way"),
                );
            }
        }
        for (fault, [requests, chunks, faults]) in self.faults.iter().zip(tally) {
            told(&format!(
                "  {}, p = {probability}: {requests} requests = {chunks} chunks + {faults} faults",
                fault.name
            ));
        }
    }
}

/// Runs every row at every probability, some at a time.
fn endure(rows: Vec<Row>) {
    let seed = Random::new().below(1 << 31);
    let rows: Vec<Arc<Row>> = rows.into_iter().map(Arc::new).collect();
    let runs = rows
        .iter()
        .flat_map(|row| PROBABILITIES.map(|probability| (Arc::clone(row), probability)));
    at_once(runs.map(|(row, probability)| move || row.run(probability, seed)));
}

/// Does these things, some at a time; fails when one of them does.
fn at_once<F: FnOnce() + Send>(things: impl Iterator<Item = F> + Send) {
    let things = Mutex::new(things);
    let next = || things.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(thing) = next() {
                    thing();
                }
            });
        }
    });
}

/// What a run met, for who looks at it with `--nocapture`.
#[allow(clippy::print_stderr, reason = "the matrix is read by people too")]
fn told(line: &str) {
    eprintln!("{line}");
}

/// Lines that are all different and all of the same length.
fn text() -> String {
    (0..CHUNKS).fold(String::new(), |text, number| {
        text + &format!("{number:03} is the number of this record.\n")
    })
}

/// The number of the chunk that is asked about.
fn number(request: &Request) -> usize {
    request.text[..3].parse().unwrap()
}

/// What a run gives that meets no fault.
fn undisturbed() -> &'static [u8] {
    static OUTPUT: OnceLock<Vec<u8>> = OnceLock::new();
    OUTPUT.get_or_init(|| {
        let server = Server::echo();
        let run = gptpipe()
            .ask(&server)
            .args(["p", "-b", "line"])
            .input(text())
            .run();
        run.ok().stdout(text());
        assert_eq!(server.calls(), CHUNKS);
        run.stdout.clone()
    })
}

/// Whether a chunk meets a fault; the same for the same seed. What meets one at a low probability
/// meets it at every higher one.
fn meets(seed: usize, number: usize, probability: f64) -> bool {
    let mut hasher = DefaultHasher::new();
    (seed, number).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() >> 32).unwrap();
    f64::from(part) < probability * 2_f64.powi(32)
}
