//! The lines of `glexec_monitor`, which accounting probes (Gratia) read: written by the supervisor itself.
//!
//! A probe pairs lines by the two numbers in brackets, takes the first FQAN as the primary one, and wants whole seconds.

use crate::log::Log;
use identity::VerifiedIdentity;
use nix::unistd::Pid;
use record::Usage;

/// Writes the lines of one session.
pub(crate) struct GratiaLog<'a> {
    log: &'a Log,
    /// The process that the caller sees.
    visible: Pid,
    uid: u32,
    identity: &'a VerifiedIdentity,
}

impl<'a> GratiaLog<'a> {
    /// For a session of this identity under this uid.
    pub(crate) fn new(log: &'a Log, visible: Pid, uid: u32, identity: &'a VerifiedIdentity) -> Self {
        Self { log, visible, uid, identity }
    }

    /// The payload runs.
    pub(crate) fn started(&self, payload: Pid) {
        let mut lines = vec![
            format!("Started, target uid {}", self.uid),
            format!("Used DN: \"{}\"", self.identity.subject),
        ];
        if let Some(voms) = &self.identity.voms {
            lines.push(format!("Used VO: \"{}\" Issuer: \"{}\"", voms.vo, voms.signer));
            lines.extend(voms.fqans.iter().map(|fqan| format!("Used FQAN: \"{fqan}\"")));
        }
        self.write(payload, &lines);
    }

    /// The payload has ended.
    pub(crate) fn terminated(&self, payload: Pid, usage: &Usage) {
        let (user, system) = (usage.cpu_user_us / 1_000_000, usage.cpu_sys_us / 1_000_000);
        self.write(payload, &[format!("Terminated, CPU user {user} system {system}")]);
    }

    fn write(&self, payload: Pid, lines: &[String]) {
        self.log.monitor_lines(&format!("glexec.mon[{payload}#{}]", self.visible), lines);
    }
}
