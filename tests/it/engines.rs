//! Engines that spread work over processes and hosts: GNU parallel here and over a real sshd, Spark, arrays of jobs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{BINARY, Folder, Gptpipe, Outcome, lines, tool};
use crate::server::{Answer, Request, Server};
use crate::ssh::Hosts;

/// A bash script in which `gptpipe` is the program.
fn bash(script: &str) -> Gptpipe {
    tool("bash").args(["-c", &format!("set -o pipefail\n{script}")])
}

/// How often each of these texts was asked about.
#[track_caller]
fn asked(server: &Server, times: usize, texts: impl IntoIterator<Item = impl AsRef<str>>) {
    let requests = server.requests();
    for text in texts {
        let text = text.as_ref();
        let count = requests
            .iter()
            .filter(|request| request.text == text)
            .count();
        assert_eq!(count, times, "requests about `{text}`");
    }
}

fn refuses(text: &'static str) -> Server {
    Server::start(move |request: &Request| {
        if request.text == text {
            Answer::error("400 Bad Request", "odd", "not this one")
        } else {
            request.echo()
        }
    })
}

#[test]
fn parallel_cuts_a_stream_keeps_its_order_and_pays_for_what_is_missing() {
    let home = Folder::home();
    let text = lines(3000);
    home.write("text", &text);
    let parallel = |options: &str| {
        bash(&format!(
            "parallel --will-cite --pipe -k -j 4 --block 2k {options} gptpipe -b line p < text"
        ))
    };
    // Blocks that end in any order.
    let server = Server::start(|request: &Request| {
        let wait = Duration::from_millis(request.ordinal as u64 * 7919 % 13);
        if request.text == "1500" {
            return Answer::error("400 Bad Request", "odd", "not this one");
        }
        request.echo().after(wait)
    });
    let run = parallel("--joblog jobs").at(&home).ask(&server).run();
    // The number of jobs that failed; each block says itself what became of it.
    run.status(1).says("not this one");
    let log = fs::read_to_string(home.path.join("jobs")).unwrap();
    let statuses: Vec<&str> = log
        .lines()
        .skip(1)
        .map(|line| line.split('\t').nth(6).unwrap())
        .collect();
    let of = |status: &str| statuses.iter().filter(|have| **have == status).count();
    assert_eq!((of("69"), of("0")), (1, statuses.len() - 1), "{log}");
    let mended = Server::echo();
    // The address is part of what a reply is remembered by.
    let all = parallel("").at(&home).ask(&mended);
    all.run().ok().stdout(&text);
    assert_eq!(mended.calls(), 3000);
    parallel("").at(&home).ask(&mended).run().ok().stdout(&text);
    assert_eq!(mended.calls(), 3000, "all of it was remembered");
}

#[test]
fn parallel_runs_again_what_failed_and_that_alone() {
    let home = Folder::home();
    for name in ["a", "b", "c", "d"] {
        let text = if name == "c" {
            "one\nbad\nthree\n".to_owned()
        } else {
            format!("{name} one\n{name} two\n")
        };
        home.write(&format!("in/{name}"), text);
    }
    fs::create_dir(home.path.join("out")).unwrap();
    let server = Server::start({
        let gate = std::sync::atomic::AtomicBool::new(true);
        move |request: &Request| {
            let is_bad = request.text == "bad";
            if is_bad && gate.swap(false, std::sync::atomic::Ordering::SeqCst) {
                Answer::error("400 Bad Request", "odd", "not this one")
            } else {
                request.echo()
            }
        }
    });
    let script = "parallel --will-cite -j 2 --joblog jobs --resume-failed \
        'gptpipe -b line -j 1 p {} > out/{/}.part && mv out/{/}.part out/{/}' ::: in/*";
    let run = bash(script).at(&home).ask(&server).run();
    run.status(1).says("not this one");
    assert!(!home.path.join("out/c").exists());
    bash(script).at(&home).ask(&server).run().ok();
    for name in ["a", "b", "c", "d"] {
        let of = |folder: &str| fs::read(home.path.join(folder).join(name)).unwrap();
        assert_eq!(of("in"), of("out"), "{name}");
    }
    asked(
        &server,
        1,
        ["a one", "a two", "b one", "d two", "one", "three"],
    );
    asked(&server, 2, ["bad"]);
}

#[test]
fn parallel_stops_when_every_further_job_would_fail() {
    let server = Server::start(|_| Answer::error("401 Unauthorized", "invalid_api_key", "no"));
    let run = bash("seq 100 | parallel --will-cite -j 2 --halt now,fail=1 'echo {} | gptpipe p'")
        .ask(&server)
        .env("GPTPIPE_API_KEY", "wrong")
        .run();
    run.status(255);
    assert!(server.calls() <= 4, "{} jobs", server.calls());
}

/// Each host has its own configuration, key, cache and limit; what goes over is text alone.
#[test]
fn parallel_spreads_a_stream_over_hosts_that_have_their_own_keys_and_limits() {
    let (hosts, home) = (Hosts::start(), Folder::home());
    let server = Server::echo();
    for (host, key) in hosts.hosts.iter().zip(["key-of-one", "key-of-two"]) {
        let config = format!(
            "profile = 'corp'\nrate = '10/s'\n[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\n\
             key-command = 'printf {key}'\n",
            server.url()
        );
        host.home.write("config/gptpipe/config.toml", config);
    }
    let text = lines(40);
    home.write("text", &text);
    let script = format!(
        "parallel --will-cite --pipe -k -N 5 --ssh 'ssh -F {}' --sshlogin 2/one,2/two --joblog jobs \
         gptpipe -b line p < text",
        hosts.config.display()
    );
    let run = bash(&script)
        .at(&home)
        .ask(&Server::echo())
        .env("GPTPIPE_API_KEY", "of-this-host")
        .patient()
        .run();
    run.ok().stdout(&text);
    asked(&server, 1, text.lines());
    let mut by_key = [0, 0];
    let requests = server.requests();
    for request in &requests {
        match request.header("authorization") {
            Some("Bearer key-of-one") => by_key[0] += 1,
            Some("Bearer key-of-two") => by_key[1] += 1,
            other => panic!("a key that is of none of the hosts: {other:?}"),
        }
    }
    assert!(by_key[0] >= 5 && by_key[1] >= 5, "{by_key:?}");
    // Ten a second of each host, twenty of both.
    for key in ["key-of-one", "key-of-two"] {
        let key = format!("Bearer {key}");
        let of_host = requests
            .iter()
            .filter(|request| request.header("authorization") == Some(&key));
        let mut arrived: Vec<_> = of_host.map(|request| request.arrived).collect();
        arrived.sort();
        let took = arrived[arrived.len() - 1].duration_since(arrived[0]);
        let spaces = u32::try_from(arrived.len() - 1).unwrap();
        assert!(
            took >= Duration::from_millis(95) * spaces,
            "{took:?} for {spaces}"
        );
    }
    let log = fs::read_to_string(home.path.join("jobs")).unwrap();
    assert!(log.contains("\tone\t") && log.contains("\ttwo\t"), "{log}");
    assert!(
        !log.contains("of-this-host") && !log.contains("key-of"),
        "{log}"
    );
    // What is remembered is remembered where it was asked.
    for host in &hosts.hosts {
        assert!(host.home.path.join("cache/gptpipe/cache.db").exists());
        assert!(host.home.path.join("state/gptpipe/state.db").exists());
    }
    assert!(!home.path.join("cache").exists());
}

#[test]
fn a_host_that_fails_fails_its_jobs_and_they_are_run_again_elsewhere() {
    let (hosts, home) = (Hosts::start(), Folder::home());
    let server = Server::echo();
    // Only one of them knows whom to ask.
    let config = format!(
        "profile = 'corp'\n[profiles.corp]\nbase-url = '{}'\nmodel = 'm'\n",
        server.url()
    );
    hosts.hosts[0]
        .home
        .write("config/gptpipe/config.toml", config);
    let script = |hosts: &Hosts, logins: &str| {
        format!(
            "seq 6 | parallel --will-cite -k --ssh 'ssh -F {}' --sshlogin {logins} --joblog jobs --resume-failed \
             'echo {{}} | gptpipe p'",
            hosts.config.display()
        )
    };
    let run = bash(&script(&hosts, "1/one,1/two"))
        .at(&home)
        .patient()
        .run();
    run.says("there is no key for the profile `openai`");
    let failed = run.code.unwrap();
    run.must((1..=5).contains(&failed), "the jobs of one host fail");
    let before = String::from_utf8(run.stdout.clone()).unwrap();
    let again = bash(&script(&hosts, "1/one")).at(&home).patient().run();
    again.ok();
    let after = String::from_utf8(again.stdout.clone()).unwrap();
    let mut all: Vec<&str> = before.lines().chain(after.lines()).collect();
    all.sort_unstable();
    assert_eq!(all, ["1", "2", "3", "4", "5", "6"]);
    assert_eq!(server.calls(), 6);
}

/// Where `.ci/run` has put `PySpark`.
const SPARK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/spark");

/// What Spark made of tests/spark/job.py: rows or error of each part, in the order of the parts.
struct Job {
    run: Outcome,
    parts: Vec<Value>,
}

impl Job {
    fn run(master: &str, server: &Server) -> Self {
        assert!(
            Path::new(SPARK).join("pyspark").exists(),
            "PySpark is missing; run: python3 -m pip install --target {SPARK} 'pyspark>=4,<5'"
        );
        let home = Folder::home();
        // Executors of a cluster write into Spark's own folder: this one is the test's.
        let spark = home.path.join("spark");
        fs::create_dir(&spark).unwrap();
        for entry in fs::read_dir(Path::new(SPARK).join("pyspark")).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), spark.join(entry.file_name())).unwrap();
        }
        fs::create_dir_all(home.path.join("inner/shared")).unwrap();
        let sources = env!("CARGO_MANIFEST_DIR");
        let run = tool("python3")
            .at(&home)
            .env("PYTHONPATH", format!("{SPARK}:{sources}/contrib/spark"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYSPARK_PYTHON", "python3")
            .env("SPARK_HOME", &spark)
            .env("SPARK_LOCAL_IP", "127.0.0.1")
            .env("SPARK_LOCAL_DIRS", home.path.join("local"))
            .arg(Path::new(sources).join("tests/spark/job.py"))
            .args([master, BINARY, &server.url()])
            .arg(home.path.join("inner"))
            .patient()
            .run();
        run.status(0);
        let text = String::from_utf8(run.stdout.clone()).unwrap();
        let parts = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        Self { run, parts }
    }

    fn all(&self, part: &str) -> Vec<&Value> {
        let all: Vec<&Value> = self
            .parts
            .iter()
            .filter(|told| told["part"] == part)
            .collect();
        self.run
            .must(!all.is_empty(), &format!("there is no part {part}"));
        all
    }

    /// All of its runs gave these rows.
    #[track_caller]
    fn gives(&self, part: &str, rows: &Value) {
        for told in self.all(part) {
            let is_it = told["rows"] == *rows;
            self.run.must(is_it, &format!("{part} gave {told}"));
        }
    }

    #[track_caller]
    fn fails(&self, part: &str, words: &str) {
        let told = self.all(part)[0];
        let says_it = told["error"]
            .as_str()
            .is_some_and(|error| error.contains(words));
        self.run
            .must(says_it, &format!("{part} must say {words}: {told}"));
    }
}

/// The texts that a part asked about, in the order of arrival; its prompt is its name.
fn of_part(server: &Server, part: &str) -> Vec<String> {
    let prompt = |request: &Request| request.body["messages"][0]["content"].to_string();
    let requests = server.requests();
    requests
        .iter()
        .filter(|request| prompt(request).ends_with(&format!("{part}\"")))
        .map(|request| request.text.clone())
        .collect()
}

fn spark_does_what_it_does_with_a_filter(master: &str) -> Job {
    let has_refused = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |request: &Request| {
        let once = request.text == "record 30 ü"
            && request.body["messages"][0]["content"]
                .as_str()
                .unwrap()
                .ends_with("retried")
            && !has_refused.swap(true, std::sync::atomic::Ordering::SeqCst);
        if request.text == "denied" {
            Answer::error("401 Unauthorized", "invalid_api_key", "no such key")
        } else if once || request.text == "refused" {
            Answer::error("400 Bad Request", "odd", "not this one")
        } else {
            request.echo()
        }
    });
    let job = Job::run(master, &server);
    let texts: Vec<String> = (0..400)
        .map(|number| format!("record {number} ü"))
        .collect();
    let sorted = |part: &str| {
        let mut asked = of_part(&server, part);
        asked.sort();
        asked
    };
    let mut each_once = texts.clone();
    each_once.sort();

    job.gives("order", &json!(texts));
    assert_eq!(sorted("order"), each_once);
    job.gives("blank", &json!(["a", "", "  ", "b"]));
    job.gives("empty", &json!(["alone"]));
    assert_eq!(
        sorted("empty"),
        ["alone"],
        "partitions without a record ask nothing"
    );
    // Run again from its first record, and only what is missing is asked for.
    job.gives("retried", &json!(texts[..50]));
    let retried = [&texts[..=30], &texts[30..50]].concat();
    assert_eq!(of_part(&server, "retried"), retried);
    job.fails("refused", "exited with error code 69");
    assert_eq!(
        of_part(&server, "refused"),
        ["a", "refused", "refused", "refused"]
    );
    // Without `checkCode` nobody sees that something is missing.
    job.gives("unseen", &json!(["a"]));
    job.gives("skipped", &json!(["a", "", "b"]));
    job.gives("homeless", &json!(["a"]));
    job.gives("bare", &json!(["a"]));
    job.gives("left", &json!(["number 0"]));
    let left = of_part(&server, "left").len();
    assert!(
        left < 10_000,
        "{left} requests for a reader of one record who has left"
    );

    let error = "the server does not accept the request: 400 odd: not this one";
    job.gives(
        "helper",
        &json!([
            [0, "one", null],
            [1, "two lines", null],
            [2, "", null],
            [3, null, error],
            [4, "", null],
            [5, "five", null],
            [6, "", null],
        ]),
    );
    let rows: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| json!([number, text, null]))
        .collect();
    job.gives("again", &json!(rows));
    assert_eq!(
        job.all("again").len(),
        2,
        "the second time from what is remembered"
    );
    assert_eq!(sorted("again"), each_once);
    let long = "word ".repeat(100);
    job.gives(
        "long",
        &json!([[1, long.trim_end(), null], [2, "short", null]]),
    );
    job.fails("denied", "gptpipe ended with status 255");
    job
}

#[test]
fn spark_on_one_machine() {
    let job = spark_does_what_it_does_with_a_filter("local[2,3]");
    job.run
        .says("the folder `/dev/null/.cache/gptpipe` of the cache cannot be made")
        .says("the limit holds for this process alone");
}

#[test]
fn spark_on_a_cluster() {
    spark_does_what_it_does_with_a_filter("local-cluster[2,1,1024]");
}

/// Plays the array: each of its jobs, some of them twice.
#[test]
fn an_array_of_jobs_takes_its_parts_and_runs_again_for_less() {
    let home = Folder::home();
    let text = lines(100);
    home.write("text", &text);
    let job = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/slurm/array.sh");
    let play = |server: &Server| {
        bash(&format!(
            "for task in 3 1 4 2; do SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_COUNT=4 \
             bash {job} text out -b line -j 1 p || failed=1; done; exit ${{failed:-0}}"
        ))
        .at(&home)
        .ask(server)
        .run()
    };
    let server = refuses("60");
    let run = play(&server);
    run.status(1).says("not this one");
    let parts = |count: usize| {
        let names = fs::read_dir(home.path.join("out")).unwrap();
        let names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.contains('.'))
            .collect();
        assert_eq!(names.len(), count, "{names:?}");
    };
    parts(3);
    let before = server.calls();
    play(&server).status(1);
    assert_eq!(
        server.calls() - before,
        1,
        "of the part that failed, only what failed"
    );
    let mended = Server::echo();
    play(&mended).ok();
    parts(4);
    bash("cat out/part-????").at(&home).run().ok().stdout(&text);
    assert!(mended.calls() <= 30, "three parts were there");
}
