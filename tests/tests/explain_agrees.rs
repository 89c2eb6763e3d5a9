//! `site-policy explain` tells what `glexec` does: the real programs judge the same generated cases, and verdict, account and
//! reason must be the same.

use harness::{Machine, needs};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;

/// Cases that both programs judge.
const CASES: usize = 220;

/// Numbers that look random and are the same each time (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).expect("below n")
    }

    /// The first one as often as all the others together: most of a site is in order.
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        if self.below(2) == 0 { from[0] } else { from[self.below(from.len())] }
    }
}

struct Site {
    machine: Machine,
    proxies: Vec<String>,
    of_stranger: String,
    alice: String,
}

impl Site {
    fn new() -> Self {
        let machine =
            Machine::builder().pilot("pilot").service("stranger").account("alice").account("bob").build();
        let pki = machine.pki();
        pki.add_vo("cms").expect("a VO");
        let alice = machine.user("Alice");
        let limited = pki.dir().join("limited.pem");
        pki.grid_proxy(&alice, &limited, &["-limited"]).expect("a limited proxy");
        let voms = pki.dir().join("voms.pem");
        pki.voms_proxy(&alice, &voms, "cms", &["/cms/Role=pilot", "/cms"]).expect("a VOMS proxy");
        let put = |path: &std::path::Path| machine.put_credential(fs::read(path).expect("a proxy"), "pilot");
        let mut proxies =
            vec![machine.proxy("Alice", "pilot"), put(&voms), machine.proxy("Bob", "pilot"), put(&limited)];
        let open = machine.proxy("Alice", "pilot");
        fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("chmod");
        proxies.push(open);
        proxies.push(machine.put_credential("no proxy", "pilot"));
        proxies.push(machine.tampered_proxy("Alice", "pilot"));
        let alice = machine.dn("Alice");
        let of_stranger = machine.proxy("Alice", "stranger");
        Self { machine, proxies, of_stranger, alice }
    }

    /// Writes the files of one case; the text says what they are.
    fn arrange(&self, numbers: &mut Numbers) -> String {
        let (alice, (low, high)) = (&self.alice, self.machine.uid_range());
        let all = format!("{low}-{high}");
        let bob = self.machine.uid("bob").to_string();
        let order =
            numbers.pick(&["\"grid-mapfile\"", "\"voms-mapfile\", \"grid-mapfile\"", "\"voms-mapfile\"", ""]);
        let policy = format!(
            "[callers]\nallow = [{}]\n[accounts]\nallow = [\"{}\"]\ngids = [\"{}\"]\n[mapping]\norder = [{order}]\n\
             [trust]\nallow_limited = {}\n{}{}",
            numbers.pick(&["\"pilot\"", "\"*\"", "\"alice\"", ""]),
            numbers.pick(&[&all, &bob, "alice"]),
            numbers.pick(&[&all, "7"]),
            numbers.pick(&["true", "false"]),
            numbers.pick(&["", "", "require_crl = true\n", "unknown = 1\n"]),
            numbers.pick(&["", "", "[bans]\ndn_file = \"/etc/grid-security/missing\"\n"]),
        );
        let spelt = alice.replace("/CN=", "/cn=");
        let unquoted = format!("{alice} Adams\n");
        let bans = numbers
            .pick(&[
                "",
                "",
                "# f\u{fc}r\n",
                &format!("\"{alice}\"\n"),
                &format!("\"{spelt}\"\n"),
                "\"*\"\n",
                &unquoted,
            ])
            .to_owned();
        let grid = numbers
            .pick(&[
                &format!("\"{alice}\" alice\n"),
                &format!("\"{spelt}\" alice\n"),
                &format!("\"{alice}\" nobody_here\n"),
                &format!("\"{alice}\" root\n"),
                &format!("\"{alice}\" pilot\n"),
                &format!("\"{alice}\" a:b\n"),
                &format!("\"{alice} alice\n"),
                &format!("\"{alice}\" .pool\n"),
                "",
            ])
            .to_owned();
        let voms = numbers.pick(&[
            "\"/cms*\" bob\n",
            "\"/cms/Role=pilot*\" alice\n",
            "\"/atlas*\" bob\n",
            "\"/cms\n",
        ]);
        for (path, text) in [
            ("/etc/pilotage/policy.toml", policy.as_str()),
            ("/etc/grid-security/ban-mapfile", &bans),
            ("/etc/grid-security/grid-mapfile", &grid),
            ("/etc/grid-security/voms-mapfile", voms),
        ] {
            self.machine.write(path, "root", 0o644, text);
        }
        let (file, mode) =
            [("ban-mapfile", 0o666), ("grid-mapfile", 0o664), ("voms-mapfile", 0o646)][numbers.below(3)];
        if numbers.below(8) == 0 {
            let path = format!("/etc/grid-security/{file}");
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
        }
        format!("{policy}--- bans\n{bans}--- grid\n{grid}--- voms\n{voms}")
    }

    /// Exit code, account and reason of `glexec`.
    fn called(&self, caller: &str, proxy: &str) -> (Option<i32>, String, String) {
        let ran = self
            .machine
            .glexec()
            .as_user(caller)
            .env("GLEXEC_CLIENT_CERT", proxy)
            .env("GLEXEC_TARGET_PROXY", "/dev/null")
            .args(["/usr/bin/id", "-un"])
            .output();
        (ran.code(), ran.text().trim().to_owned(), ran.errors())
    }

    /// The same of `explain`.
    fn explained(&self, caller: &str, proxy: &str) -> Value {
        let ran = self
            .machine
            .command("/usr/bin/site-policy")
            .args(["explain", "--json", "--proxy", proxy, "--caller", caller])
            .output();
        serde_json::from_str(&ran.text()).unwrap_or_else(|e| panic!("{e}: {} {}", ran.text(), ran.errors()))
    }
}

#[test]
#[needs(root, "grid-proxy-init", "voms-proxy-fake")]
fn explain_says_what_glexec_does() {
    let site = Site::new();
    let mut numbers = Numbers(0x2026_1128);
    let (mut granted, mut codes) = (0, std::collections::BTreeMap::new());
    for case in 0..CASES {
        let files = site.arrange(&mut numbers);
        let proxy = match numbers.below(3) {
            0 => &site.proxies[numbers.below(site.proxies.len())],
            good => &site.proxies[good - 1],
        };
        // A proxy of another account cannot even be opened, so the stranger has one of its own.
        let (caller, proxy) = match numbers.below(20) {
            0 => ("stranger", &site.of_stranger),
            _ => ("pilot", proxy),
        };
        let (code, account, errors) = site.called(caller, proxy);
        let told = site.explained(caller, proxy);
        let shown = || {
            format!(
                "case {case}, caller {caller}, {proxy}\n{files}\nglexec {code:?} {account}: {errors}\nexplain {told}"
            )
        };
        if code == Some(0) {
            granted += 1;
            assert_eq!(told["would_run"], true, "{}", shown());
            assert_eq!(told["granted"]["account"], account.as_str(), "{}", shown());
            continue;
        }
        *codes.entry(code).or_insert(0) += 1;
        assert_eq!(told["would_run"], false, "{}", shown());
        assert_eq!(told["exit_code"].as_i64(), code.map(i64::from), "{}", shown());
        let steps = told["steps"].as_array().expect("steps");
        let why = steps.last().and_then(|step| step["why"].as_str()).expect("a reason");
        // The variable's name is known to glexec only.
        assert!(errors.contains(why), "{}", shown());
    }
    assert!(granted >= 20 && codes.len() == 3, "{granted} granted, {codes:?}: the cases are badly chosen");
}
