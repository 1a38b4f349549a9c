//! The tests of the program as its users meet it: the real binary, real sockets, real terminals.
//! One test binary, a room for each promise.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bus; // a D-Bus of the test's own, with the keyring on it
mod harness; // runs the binary and judges how it ended; seeds and folders of a test
mod oidc; // a real OAuth 2.0 provider on loopback
mod provider; // a provider with a Batch API on loopback
mod proxy; // HTTP and SOCKS proxies on loopback
mod server; // a scripted OpenAI-compatible server on loopback, with every fault a real one has
mod ssh; // hosts with a real sshd on loopback
mod tls; // certificates of an authority that lives for one test

mod api; // what is sent, what is understood: bodies of both APIs, recorded answers, connections
mod batch; // --batch: chunks by the Batch API, submitted once whatever happens
mod budget; // what may be spent, by one process or by many
mod cache; // what is remembered: hits, misses, damage, processes side by side
mod canary; // a key that is known, looked for in everything that a run leaves behind
mod complete; // what the Tab key offers, in the real shells
mod demo; // --demo: the whole path without key, network or home
mod docs; // help and README say the same
mod edit; // --in-place: files replaced by what comes of them, whole or not at all
mod engines; // GNU parallel here and over ssh, Spark, arrays of jobs
mod fault; // each fault of a server: status, message, and what is on stdout all the same
mod filter; // bytes in, bytes out: encodings, files, operands
#[cfg(feature = "keyring")]
mod interplay; // beside other tools, in real shells
mod key; // the key is where it belongs and nowhere else
mod keyring; // a real keyring on a bus of its own, and what can be wrong with one
mod laws; // what holds for every input: nothing is lost, every chunk fits
mod layout; // the import law of the sources
mod ledger; // what requests there were: as the server counts them, without a word of text
mod limit; // rates and requests in flight, shared by processes
mod man; // the manual pages: complete, without faults, with examples that work
mod matrix; // every fault, at every rate: nothing lost, nothing asked twice, an honest end
mod metrics; // what Prometheus reads, by its own tools
mod mistakes; // the likeliest mistakes: everything that is said about each; a newcomer's first minute
mod oauth; // tokens in place of keys: logging in, renewing once, giving back
mod order; // output order, requests in flight, memory
mod pipes; // readers that leave, full disks, signals
mod plan; // --dry-run: what would be sent
mod reduce; // --reduce: the replies merged into one
mod resume; // ends from outside, and running again from there
mod settings; // flags, environment, configuration file
mod shapes; // what a reply is written as: text, lines of JSON, what is inside a fence
mod ship; // what is packed, installed and run on servers: package, units, image
mod spool; // the spool of the systemd units: every file once, whole, with its reply or its reason beside it
mod transport; // TLS, HTTP/2, proxies, redirects
mod tty; // terminals on any of the three streams
