//! The play: what happens, step by step.

use crate::grid::{self, PILOT_PROXY};
use crate::report::Checks;
use crate::services;
use crate::{progress, progress_over, report};
use anyhow::{Context, Result, anyhow, bail};
use harness::{Machine, Service};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Files that payloads get as input: name and content.
pub(crate) const SCRIPTS: [(&str, &str); 4] = [
    ("honest.sh", include_str!("../payloads/honest.sh")),
    ("callback.pl", include_str!("../payloads/callback.pl")),
    ("seven.sh", include_str!("../payloads/seven.sh")),
    ("hostile.pl", include_str!("../payloads/hostile.pl")),
];

/// How long anything may take. Nothing here waits for a fixed time: a slow host only takes longer.
const LIMIT: Duration = Duration::from_secs(180);

/// A submitted payload.
pub(crate) struct Submitted {
    /// What it is called in the table.
    pub(crate) title: &'static str,
    /// Who submitted it: an account on the submit host, not the one it runs under.
    pub(crate) user: &'static str,
    /// Payload id.
    pub(crate) id: String,
}

/// Everything there is to show and to check.
pub(crate) struct Story {
    /// The payloads and what `pilot show --json` says about them in the end.
    pub(crate) payloads: Vec<(Submitted, Value)>,
    /// What came back when the ports of the honest payloads were dialled.
    pub(crate) callbacks: Vec<(&'static str, u16, String)>,
    /// What the hostile payload printed.
    pub(crate) hostile: String,
    /// Content of the result files, as `pilot output` fetched them.
    pub(crate) results: Vec<(&'static str, String)>,
}

/// Plays; false when anything was not as it should be.
pub(crate) fn run() -> Result<bool> {
    let began = Instant::now();
    progress("building a private view of this host, accounts, certificates and proxies");
    let machine = grid::machine();
    let robot = grid::set_up(&machine)?;
    for (name, content) in SCRIPTS {
        for user in ["alice", "bob"] {
            machine.write(&format!("/home/{user}/{name}"), user, 0o755, content);
        }
    }
    progress("starting the mapping service and the central queue");
    let (mapping_port, queue_port) = (harness::free_port(), harness::free_port());
    let mapping = machine.mapping_server(mapping_port, &grid::mapping_config()?).map_err(|e| anyhow!(e))?;
    machine.edit_policy(|policy| format!("{policy}{}", Machine::gums_table(mapping_port)));
    let queue = services::queue(&machine, queue_port, &robot)?;
    let stage = Stage { machine: &machine, url: format!("https://localhost:{queue_port}") };
    let mut agent = None;
    let mut checks = Checks::default();
    let played = stage.perform(&mut agent);
    progress_over();
    let played = played.and_then(|story| report::show(&machine, &story, &mut checks));
    let failure = played.err().map(|e| format!("the demo broke off: {e:#}"));
    let failure = failure.or_else(|| checks.failure());
    if let Some(reason) = &failure {
        let services = [Some(&mapping), Some(&queue), agent.as_ref()];
        let logs: String = services.into_iter().flatten().map(Service::said).collect();
        let glexec: String = machine.log().lines().map(|line| format!("    glexec: {line}\n")).collect();
        eprint!("{}", report::failed(reason, &(logs + &glexec)));
    } else {
        println!("\n{}", checks.summary(began.elapsed()));
    }
    Ok(failure.is_none())
}

struct Stage<'a> {
    machine: &'a Machine,
    url: String,
}

impl Stage<'_> {
    fn perform(&self, agent: &mut Option<Service>) -> Result<Story> {
        progress("Alice and Bob submit an honest payload each");
        let honest = [
            "--input",
            "honest.sh",
            "--input",
            "callback.pl",
            "--output",
            "result.txt",
            "--ports",
            "1",
            "--",
            "sh",
            "honest.sh",
        ];
        let alice = self.submit("honest (Alice)", "alice", &honest)?;
        let bob = self.submit("honest (Bob)", "bob", &honest)?;
        progress("one pilot with two slots starts under the account `pilot`");
        let agent = agent.insert(services::agent(self.machine, &self.url)?);
        let bobs_port = self.listening(&bob)?;
        progress("Bob's payload listens; dialling its port from outside");
        let mut callbacks = vec![("Bob", bobs_port, dial(bobs_port)?)];
        self.wait(&bob)?;
        // Its payload is the pilot's work as long as nobody calls it back: the pilot is never idle before the end.
        let alices_port = self.listening(&alice)?;
        progress("while Alice's payload still runs, Bob's hostile one attacks");
        let hostile = self.attack(&alice, agent.pid())?;
        progress("Alice's second payload has a mistake in it and exits with 7");
        let seven = self.submit("exits with 7", "alice", &["--input", "seven.sh", "--", "sh", "seven.sh"])?;
        self.wait(&seven)?;
        progress("Alice's first payload has survived; dialling its port");
        callbacks.push(("Alice", alices_port, dial(alices_port)?));
        self.wait(&alice)?;
        progress("the pilot finds no more work and ends");
        if !agent.ends_within(LIMIT).map_err(|e| anyhow!(e))? {
            bail!("the pilot failed; its log stands above");
        }
        let attempts = self.pilot(&hostile, &["logs", &hostile.id])?;
        let results = vec![("Alice", self.result(&alice)?), ("Bob", self.result(&bob)?)];
        let shown = |p: Submitted| self.show(&p).map(|value| (p, value));
        let payloads = [alice, bob, seven, hostile].map(shown).into_iter().collect::<Result<_>>()?;
        Ok(Story { payloads, callbacks, hostile: attempts, results })
    }

    /// Tells the hostile payload exactly whom to attack, so that a refusal cannot be a miss.
    fn attack(&self, alice: &Submitted, pilot: u32) -> Result<Submitted> {
        let facts = self.facts(alice)?;
        let fact =
            |name: &str| facts.get(name).with_context(|| format!("Alice's payload did not print {name}"));
        let env = [
            format!("ALICE_PID={}", fact("pid")?),
            format!("ALICE_DIR={}", fact("directory")?),
            format!("ALICE_PROXY={}", fact("proxy")?),
            format!("AGENT_PID={pilot}"),
            format!("AGENT_PROXY={PILOT_PROXY}"),
        ];
        let mut args = vec!["--input", "hostile.pl"];
        args.extend(env.iter().flat_map(|e| ["--env", e.as_str()]));
        args.extend(["--", "perl", "hostile.pl"]);
        let hostile = self.submit("hostile (Bob)", "bob", &args)?;
        self.wait(&hostile)?;
        Ok(hostile)
    }

    fn submit(&self, title: &'static str, user: &'static str, args: &[&str]) -> Result<Submitted> {
        let mut payload = Submitted { title, user, id: String::new() };
        let said = self.pilot(&payload, &[&["submit"], args].concat())?;
        payload.id = said.split_whitespace().last().context("pilot submit printed no payload id")?.to_owned();
        Ok(payload)
    }

    /// Runs `pilot` as the user who submitted the payload.
    fn pilot(&self, payload: &Submitted, args: &[&str]) -> Result<String> {
        let ran = self.command(payload, args).output();
        if ran.code() != Some(0) {
            bail!(
                "pilot {} (as {}): exit code {:?}\n{}",
                args.join(" "),
                payload.user,
                ran.code(),
                ran.errors()
            );
        }
        Ok(ran.text())
    }

    fn command(&self, payload: &Submitted, args: &[&str]) -> harness::Run {
        let run = self.machine.command("/usr/bin/pilot").as_user(payload.user).limit(LIMIT);
        let run = run.env("PILOT_QUEUE", &self.url).env("X509_CERT_DIR", grid::CA_DIR);
        run.env("X509_USER_PROXY", grid::proxy_of(payload.user)).args(args)
    }

    fn wait(&self, payload: &Submitted) -> Result<()> {
        let ran = self.command(payload, &["wait", &payload.id]).output();
        // `wait` exits with the payload's code, so only what the queue says later counts.
        ran.code().map(|_| ()).with_context(|| format!("pilot wait died: {}", ran.errors()))
    }

    fn show(&self, payload: &Submitted) -> Result<Value> {
        let text = self.pilot(payload, &["show", &payload.id, "--json"])?;
        let shown: Value =
            serde_json::from_str(&text).with_context(|| format!("pilot show --json printed {text:?}"))?;
        Ok(shown["payload"].clone())
    }

    /// The port that the payload listens on, as soon as its output says so; its other facts come before.
    fn listening(&self, payload: &Submitted) -> Result<u16> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(port) = self.facts(payload)?.get("port") {
                return port.parse().map_err(|_| anyhow!("{}: port {port:?} is no number", payload.title));
            }
            let now = self.show(payload)?;
            let state = now["state"].as_str().unwrap_or_default().to_owned();
            if matches!(state.as_str(), "done" | "failed" | "killed" | "held") || Instant::now() > end {
                let shown = self.pilot(payload, &["show", &payload.id])?;
                let reason = now["reason"].as_str().unwrap_or("no reason is known");
                bail!("{} does not listen; it is {state}: {reason}\n{shown}", payload.title);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The `name=value` words that a payload has printed so far.
    fn facts(&self, payload: &Submitted) -> Result<BTreeMap<String, String>> {
        let log = self.pilot(payload, &["logs", &payload.id])?;
        let lines = log.lines().filter(|l| l.starts_with("facts: ") || l.starts_with("listening: "));
        let pairs = lines.flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// The result file, fetched by its owner.
    fn result(&self, payload: &Submitted) -> Result<String> {
        let dir = format!("/home/{}/out-{}", payload.user, payload.id);
        self.pilot(payload, &["output", &payload.id, "--to", &dir])?;
        std::fs::read_to_string(format!("{dir}/result.txt")).context("the output has no result.txt")
    }
}

/// Calls a payload back, as a user's client outside of the site would.
fn dial(port: u16) -> Result<String> {
    let mut stream =
        TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("cannot dial port {port}"))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"bye\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}
