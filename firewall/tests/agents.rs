//! Several firewalls: agents of one service, over TLS that both sides show a certificate in. One goes away and comes back.
#![allow(clippy::unwrap_used, reason = "a failing step fails its test")]

#[path = "border/mod.rs"]
mod border;

use border::{Border, eventually};
use harness::needs;
use harness::pki::{Pki, User};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

const JOB: &str = "/sites/here/firewall/7";

struct Agent(Child);

impl Agent {
    /// Starts it on the router; its table has the same name.
    fn start(border: &Border, pki: &Pki, name: &str, port: u16, master: &User) -> Self {
        let config = border.path(&format!("{name}.toml"));
        let text = format!("[nft]\ntable = \"{name}\"\n[agent]\nmasters = [{:?}]\n", master.dn);
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options().append(true).create(true).open(border.path("agents")).unwrap();
        let mut command = border.router.command(env!("CARGO_BIN_EXE_gridfw"));
        command.args(["--agent", "--listen", &format!("localhost:{port}"), "--config"]).arg(&config);
        command
            .arg("--cert")
            .arg(&pki.host_cert)
            .arg("--key")
            .arg(&pki.host_key)
            .arg("--ca-dir")
            .arg(&pki.ca_dir);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = std::fs::read_to_string(border.path("agents")).unwrap();
        assert!(line.starts_with("listening on https://"), "{line} {log}");
        Self(child)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The configuration of a service without a firewall of its own.
fn service(border: &Border, ports: &[u16], shown: &User) {
    let one = |port: &u16| {
        format!(
            "[[remote]]\nurl = \"https://localhost:{port}\"\ncert = {:?}\nkey = {:?}\n",
            shown.cert, shown.key
        )
    };
    let head =
        "batch = \"slurm\"\nbackend = \"none\"\nevery = \"1h\"\n[front]\naddresses = [\"127.0.0.1\"]\n";
    std::fs::write(border.path("gridfw.toml"), head.to_owned() + &ports.iter().map(one).collect::<String>())
        .unwrap();
}

#[test]
#[needs(root, "nft", "ip")]
fn a_firewall_that_goes_away_is_told_everything_when_it_comes_back() {
    let border = Border::new();
    let pki = Pki::new(&border.path("grid")).unwrap();
    let (master, eve) = (pki.user("master", "gridfw").unwrap(), pki.user("eve", "Eve").unwrap());
    let ports = [18446, 18447];
    let _one = Agent::start(&border, &pki, "one", ports[0], &master);
    let two = Agent::start(&border, &pki, "two", ports[1], &master);
    service(&border, &ports, &master);
    let ca = pki.ca_dir.display().to_string();
    let gridfw = border.start_with(&["--ca-dir", &ca]);
    let opening = |port: u16| format!(r#"{{"addr": "wn1", "port": {port}, "proto": "tcp"}}"#);
    let holds = |table: &str, port: u16| {
        border.router.sh(&format!("nft list set inet {table} port6")).contains(&format!(". tcp . {port}"))
    };
    let log = || format!("{} {}", border.log(), std::fs::read_to_string(border.path("agents")).unwrap());
    assert_eq!(gridfw.open(&opening(22)), 200, "{}", log());
    assert!(holds("one", 22) && holds("two", 22));
    // One is rebooted: it loses what it held, and while it is away the other one goes on.
    drop(two);
    border.router.sh("nft delete table inet two");
    let (status, text) = gridfw.ask("alice", "POST", JOB, &opening(24));
    assert!(status == 202 && text.contains("https://localhost:18447"), "{text}");
    assert!(holds("one", 24));
    let _two = Agent::start(&border, &pki, "two", ports[1], &master);
    gridfw.signal("HUP");
    eventually("everything is held again", || gridfw.ask("alice", "GET", JOB, "").0 == 200);
    assert!(holds("two", 22) && holds("two", 24));
    gridfw.kill();
    // Nobody else may say what is open.
    service(&border, &ports[..1], &eve);
    let gridfw = border.start_with(&["--ca-dir", &ca]);
    let (status, text) = gridfw.ask("alice", "POST", JOB, &opening(26));
    assert!(status == 202 && text.contains("403 Forbidden") && !holds("one", 26), "{text}");
}
