//! A machine: the real programs at their real paths, with accounts and configuration of its own.

use crate::accounts::{self, Account};
use crate::cgroup::{self, Cgroup};
use crate::grid::Grid;
use crate::install;
use crate::processes;
use crate::run::Run;
use crate::slot::Slot;
use crate::view::{Failed, View};
use std::collections::BTreeSet;
use std::fs;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::MutexGuard;

/// Payload accounts start this far into the block of uids: what lies below is no payload's.
const FIRST_PAYLOAD: u32 = 20;

/// A private view of this host in which programs run as if they were installed. The thread that builds it lives in it,
/// and so do the threads it starts from then on, until the machine is dropped; that ends every process of the machine.
///
/// It comes with the accounts `glexec`, its callers and its payload accounts, with an `/etc/glexec.conf` and a
/// `/etc/pilotage/policy.toml` that let the callers call and map, with empty `/tmp`, `/run`, `/dev/shm` and
/// `/etc/grid-security`. Log lines of `glexec` go to [`GLEXEC_LOG`].
#[derive(Debug)]
pub struct Machine {
    view: View,
    slot: Slot,
    cgroup: Option<Cgroup>,
    missing: Vec<&'static str>,
    pub(crate) grid: Grid,
    /// Shared by threads, but dropped where it was built: that thread goes home.
    _here: PhantomData<MutexGuard<'static, ()>>,
}

/// Where `glexec` logs to.
pub const GLEXEC_LOG: &str = "/var/log/glexec/glexec_log";

/// What a machine should be like.
#[derive(Debug, Default)]
pub struct Builder {
    pilots: Vec<String>,
    services: Vec<String>,
    accounts: Vec<String>,
    order: Vec<String>,
    policy: Option<String>,
    policy_more: String,
    glexec_conf: Option<String>,
    bare: bool,
    image: bool,
    batch_groups: bool,
}

impl Builder {
    /// Adds an account that may call `glexec`.
    pub fn pilot(mut self, name: &str) -> Self {
        self.pilots.push(name.to_owned());
        self
    }

    /// Adds an account that may neither call nor be mapped to, such as that of a service.
    pub fn service(mut self, name: &str) -> Self {
        self.services.push(name.to_owned());
        self
    }

    /// Adds an account for payloads.
    pub fn account(mut self, name: &str) -> Self {
        self.accounts.push(name.to_owned());
        self
    }

    /// Installs nothing of ours: no program, no configuration, no account `glexec`.
    pub fn bare(mut self) -> Self {
        self.bare = true;
        self
    }

    /// Installs the programs that `packaging/build-image` built as sites get them, where there are such, instead of cargo's.
    pub fn image(mut self) -> Self {
        self.image = true;
        self
    }

    /// Puts everything that is started into a group of its own in each cgroup hierarchy, as batch systems do with jobs.
    pub fn batch_groups(mut self) -> Self {
        self.batch_groups = true;
        self
    }

    /// Where mappings come from; without this, the grid-mapfile.
    pub fn mapping(mut self, order: &[&str]) -> Self {
        self.order = order.iter().map(|&s| s.to_owned()).collect();
        self
    }

    /// Adds tables to the policy; `[callers]`, `[accounts]`, `[mapping]` and `[ports]` are there already.
    pub fn policy_add(mut self, toml: &str) -> Self {
        self.policy_more.push_str(toml);
        self.policy_more.push('\n');
        self
    }

    /// Replaces the policy. `@UIDS@` becomes the machine's range of payload uids, `@PORTS@` its range of ports.
    pub fn policy(mut self, toml: &str) -> Self {
        self.policy = Some(toml.to_owned());
        self
    }

    /// Replaces `/etc/glexec.conf`.
    pub fn glexec_conf(mut self, text: &str) -> Self {
        self.glexec_conf = Some(text.to_owned());
        self
    }

    /// Builds the machine and moves the calling thread into it.
    ///
    /// # Panics
    /// When this host does not allow it; ask [`crate::need::root`] before.
    pub fn build(self) -> Machine {
        let slot = Slot::take();
        let cgroup = Cgroup::make(&slot.cgroup(), self.batch_groups);
        processes::kill_all_with(|uid| slot.has_uid(uid));
        let mut missing = Vec::new();
        let prepare = |root: &Path| {
            install::show_source(root)?;
            install::remove(root);
            if !self.bare {
                missing = install::install(root, self.image)?;
            }
            Ok(())
        };
        let view = View::enter(prepare).unwrap_or_else(|e| panic!("cannot build a private view: {e}"));
        let machine = Machine { view, slot, cgroup, missing, grid: Grid::default(), _here: PhantomData };
        self.settle(&machine).unwrap_or_else(|e| panic!("cannot prepare the machine: {e}"));
        machine
    }

    fn settle(&self, machine: &Machine) -> Result<(), Failed> {
        for old in ["/etc/grid-security", "/etc/pilotage", "/etc/sudoers.d", "/var/log/glexec", "/home"] {
            let _ = fs::remove_dir_all(old);
        }
        accounts::remove("glexec")?;
        fs::create_dir_all("/etc/grid-security/certificates")?;
        fs::create_dir_all("/etc/grid-security/vomsdir")?;
        fs::create_dir_all("/var/log/glexec")?;
        let first = machine.slot.first_uid();
        for (uid, name) in (first + 1..first + FIRST_PAYLOAD).zip(self.pilots.iter().chain(&self.services)) {
            accounts::add(name, uid, &format!("/home/{name}"))?;
        }
        for (uid, name) in (first + FIRST_PAYLOAD..).zip(&self.accounts) {
            accounts::add(name, uid, &format!("/home/{name}"))?;
        }
        if self.bare {
            return Ok(());
        }
        accounts::add("glexec", first, "/")?;
        install::directories()?;
        fs::create_dir_all("/etc/pilotage")?;
        machine.write("/etc/glexec.conf", "root", 0o640, self.conf_text());
        machine.write("/etc/pilotage/policy.toml", "root", 0o644, self.policy_text(machine));
        Ok(())
    }

    fn conf_text(&self) -> String {
        self.glexec_conf.clone().unwrap_or_else(|| {
            let callers = self.pilots.join(", ");
            format!(
                "[glexec]\nlinger = yes\nuser_white_list = {callers}\nuser_identity_switch_by = glexec\n\
                 log_destination = file\nlog_file = {GLEXEC_LOG}\nlog_level = 5\n{}",
                install::more_conf()
            )
        })
    }

    fn policy_text(&self, machine: &Machine) -> String {
        let default = "[callers]\nallow = @CALLERS@\n[accounts]\nallow = [\"@UIDS@\"]\ngids = [\"@UIDS@\"]\n\
                       [mapping]\norder = @ORDER@\n[ports]\nrange = \"@PORTS@\"\nper_payload = 5\n";
        let order = if self.order.is_empty() { &["grid-mapfile".to_owned()][..] } else { &self.order };
        let uids = machine.uid_range();
        let (low, high) = machine.ports();
        let text = self.policy.as_deref().unwrap_or(default).to_owned() + &self.policy_more;
        text.replace("@CALLERS@", &format!("{:?}", self.pilots))
            .replace("@ORDER@", &format!("{order:?}"))
            .replace("@UIDS@", &format!("{}-{}", uids.0, uids.1))
            .replace("@PORTS@", &format!("{low}-{high}"))
    }
}

impl Machine {
    /// A machine without accounts; add what the test needs.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A program to be run here.
    ///
    /// # Panics
    /// When it is one of ours and any of ours is not built.
    pub fn command(&self, program: &str) -> Run {
        let needed = install::is_ours(program) && self.missing.contains(&program);
        let dir = install::bin_dir();
        assert!(!needed, "{program} is not in {}; run `cargo build --workspace --bins` first", dir.display());
        Run::new(program, self.cgroup.as_ref().map(Cgroup::doors).unwrap_or_default())
    }

    /// `glexec`, called by the account `pilot`.
    pub fn glexec(&self) -> Run {
        self.command("/usr/sbin/glexec").as_user("pilot")
    }

    /// An account of this machine or of the host.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn account(&self, name: &str) -> Account {
        accounts::find(name).unwrap_or_else(|| panic!("this machine has no account {name:?}"))
    }

    /// The cgroups in which everything is started: controllers (empty for version 2) and directory.
    pub fn groups(&self) -> Vec<(String, PathBuf)> {
        self.cgroup.as_ref().map(Cgroup::groups).unwrap_or_default()
    }

    /// Uid of an account.
    ///
    /// # Panics
    /// When there is none of this name.
    pub fn uid(&self, name: &str) -> u32 {
        self.account(name).uid
    }

    /// Adds a group with members; the id counts from the start of the machine's block of 100.
    ///
    /// # Panics
    /// When `/etc/group` cannot be written.
    pub fn add_group(&self, name: &str, offset: u32, members: &[&str]) -> u32 {
        let gid = self.slot.first_uid() + offset;
        let members: Vec<_> = members.iter().map(|&m| m.to_owned()).collect();
        accounts::add_group(name, gid, &members).unwrap_or_else(|e| panic!("{e}"));
        gid
    }

    /// First and last uid (and gid) that payloads may have under the default policy.
    pub fn uid_range(&self) -> (u32, u32) {
        let first = self.slot.first_uid();
        (first + FIRST_PAYLOAD, first + crate::slot::BLOCK - 1)
    }

    /// First and last port that belong to this machine.
    pub fn ports(&self) -> (u16, u16) {
        self.slot.ports()
    }

    /// Writes a file with this owner (and the owner's group) and mode; directories above it are made when missing.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, owner: &str, mode: u32, content: impl AsRef<[u8]>) {
        let account = self.account(owner);
        let written = (|| -> Result<(), Failed> {
            if let Some(parent) = Path::new(path).parent() {
                fs::create_dir_all(parent)?;
            }
            let _ = fs::remove_file(path);
            fs::write(path, content)?;
            accounts::own(path, account.uid, account.gid, mode)
        })();
        written.unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Changes `/etc/pilotage/policy.toml`.
    ///
    /// # Panics
    /// When the change changes nothing: the test would not test what it says.
    pub fn edit_policy(&self, edit: impl FnOnce(&str) -> String) {
        let file = "/etc/pilotage/policy.toml";
        let old = fs::read_to_string(file).unwrap_or_default();
        let new = edit(&old);
        assert_ne!(old, new, "the edit changed nothing");
        self.write(file, "root", 0o644, new);
    }

    /// Writes `/etc/grid-security/grid-mapfile`: DN and account.
    pub fn grid_mapfile(&self, lines: &[(&str, &str)]) {
        let text: String = lines.iter().map(|(dn, account)| format!("\"{dn}\" {account}\n")).collect();
        self.write("/etc/grid-security/grid-mapfile", "root", 0o644, text);
    }

    /// What `glexec` has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(GLEXEC_LOG).unwrap_or_default()
    }

    /// The site's usage records, as `accounting list --json` shows them.
    ///
    /// # Panics
    /// When the command fails or does not print JSON.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let ran = self.command("/usr/bin/accounting").args(["list", "--json"]).output();
        // 1 says that there are none.
        assert!(matches!(ran.code(), Some(0 | 1)), "accounting list: {}", ran.errors());
        let answer: serde_json::Value = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("accounting list --json: {e}\n{}", ran.text()));
        answer["records"].as_array().cloned().expect("the answer has records")
    }

    /// Processes that run under an account, by id: really or effectively. The process of `glexec` that a caller waits for is
    /// none of them, though it bears the account as its saved uid: it is the caller's, and may end after the session.
    pub fn processes_of(&self, name: &str) -> Vec<i32> {
        let uid = self.uid(name);
        let runs = |p: &processes::Process| p.uids.iter().take(2).any(|of| *of == uid);
        processes::all().into_iter().filter(runs).map(|p| p.pid).collect()
    }
}

/// Ids of the sessions that this machine has seen: those with a record, and those that have none yet.
fn session_ids() -> BTreeSet<String> {
    let dirs =
        ["/run/glexec/sessions", "/var/spool/pilotage/records/open", "/var/spool/pilotage/records/closed"];
    let files = dirs.into_iter().flat_map(fs::read_dir).flatten().flatten();
    files.filter_map(|f| Some(Path::new(&f.file_name()).file_stem()?.to_str()?.to_owned())).collect()
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cgroup.as_ref().inspect(|cgroup| cgroup.kill());
        processes::kill_all_with(|uid| self.slot.has_uid(uid));
        self.cgroup.as_ref().inspect(|cgroup| cgroup.remove());
        let sessions = session_ids();
        cgroup::remove_leaves(|id| sessions.contains(id));
        self.view.leave();
    }
}
