//! The ways through a policy of LCMAPS, from its first module to success or failure.
//!
//! A policy is a graph without circles: each module leads on after success, after failure, or ends the policy with its own
//! outcome. `policy.toml` has a list of sources and rules that always hold, so each way that ends in success is compared with
//! what `glexec` will do for the same user.

use super::modules::{self, Role};
use super::note::{Effect, Notes};
use super::pdl::{Database, Policy, Rule, Word};

/// More ways than this are more than anybody meant.
const MOST: usize = 2000;

/// One module on a way, and its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step<'a> {
    state: &'a str,
    success: bool,
}

/// The ways through a policy.
pub struct Flow<'a> {
    /// Modules in the order in which LCMAPS meets them, success first.
    pub visited: Vec<&'a str>,
    ways: Vec<Vec<Step<'a>>>,
    database: &'a Database,
}

impl<'a> Flow<'a> {
    /// Walks a policy that is [`Database::runnable`].
    pub fn of(database: &'a Database, policy: &'a Policy) -> Result<Self, String> {
        let mut flow = Self { visited: Vec::new(), ways: Vec::new(), database };
        if let Some(first) = policy.rules.first() {
            flow.walk(policy, &first.state.text, &mut Vec::new())?;
        }
        Ok(flow)
    }

    fn walk(&mut self, policy: &'a Policy, state: &'a str, way: &mut Vec<Step<'a>>) -> Result<(), String> {
        if !self.visited.contains(&state) {
            self.visited.push(state);
        }
        let rule = policy.rule(state);
        for success in [true, false] {
            if !self.role(state).can_end(success) {
                continue;
            }
            way.push(Step { state, success });
            match rule.and_then(|r| next(r, success)) {
                Some(word) => self.walk(policy, &word.text, way)?,
                None => self.ways.push(way.clone()),
            }
            way.pop();
            if self.ways.len() > MOST {
                return Err(format!("policy {:?} has more than {MOST} ways; simplify it", policy.name.text));
            }
        }
        Ok(())
    }

    fn role(&self, state: &str) -> Role {
        self.database.modules.get(state).map_or(Role::Unknown, Role::of)
    }

    fn line(&self, state: &str) -> Option<usize> {
        self.database.modules.get(state).map(|m| m.line)
    }

    fn accepting(&self) -> impl Iterator<Item = &[Step<'a>]> {
        self.ways.iter().map(Vec::as_slice).filter(|way| way.last().is_some_and(|step| step.success))
    }

    fn states(&self, of: impl Fn(Role) -> bool) -> Vec<&'a str> {
        self.visited.iter().copied().filter(|state| of(self.role(state))).collect()
    }

    /// Sources of `policy.toml`, in order, each once, with the state that brought it in.
    pub fn sources(&self) -> Vec<(&'static str, &'a str)> {
        let mut found: Vec<(&'static str, &'a str)> = Vec::new();
        for state in &self.visited {
            if let Role::Source(name) = self.role(state)
                && !found.iter().any(|(n, _)| *n == name)
            {
                found.push((name, state));
            }
        }
        found
    }

    /// Says where a list of sources means something else than the graph.
    pub fn compare(&self, notes: &mut Notes) {
        self.verification(notes);
        self.bans(notes);
        self.demanded(notes);
        self.services(notes);
        self.unconnected(notes);
    }

    fn verification(&self, notes: &mut Notes) {
        let verified = |way: &[Step<'_>]| way.iter().any(|s| s.success && self.role(s.state) == Role::Verify);
        if !self.accepting().all(verified) {
            let text = "some users are mapped without verify_proxy: glexec verifies every proxy";
            notes.add(self.visited.first().and_then(|s| self.line(s)), Effect::Stricter, text);
        }
    }

    fn bans(&self, notes: &mut Notes) {
        for ban in self.states(|role| role == Role::Ban) {
            let passed = |way: &[Step<'_>]| way.iter().any(|s| s.state == ban && s.success);
            if !self.accepting().all(passed) {
                let text = format!("{ban} does not stand in every way to success: for glexec a ban is final");
                notes.add(self.line(ban), Effect::Stricter, text);
            }
        }
    }

    /// Modules that must agree, where `glexec` asks only the first source that knows the user.
    fn demanded(&self, notes: &mut Notes) {
        for way in self.accepting() {
            let passed: Vec<_> = way.iter().filter(|s| s.success).map(|s| s.state).collect();
            let sources: Vec<_> =
                passed.iter().filter(|s| matches!(self.role(s), Role::Source(_))).copied().collect();
            if let [first, .., last] = sources.as_slice()
                && self.role(first) != self.role(last)
            {
                let text = format!(
                    "LCMAPS demands that {first} and {last} both map the user; glexec takes {first} alone"
                );
                notes.add(self.line(last), Effect::Looser, text);
            }
            for state in passed {
                let text = match self.role(state) {
                    Role::Unknown => {
                        format!("users whom {state} refuses are not refused: it cannot be asked")
                    }
                    Role::Group if self.database.modules.get(state).is_some_and(modules::demands_groups) => {
                        format!(
                            "users for whom {state} fails are not refused: groups come from passwd and group"
                        )
                    }
                    _ => continue,
                };
                notes.add(self.line(state), Effect::Looser, text);
            }
        }
    }

    fn services(&self, notes: &mut Notes) {
        for way in self.accepting() {
            let failed =
                |s: &&Step<'_>| !s.success && matches!(self.role(s.state), Role::Source(n) if is_service(n));
            let Some(service) = way.iter().find(failed) else { continue };
            let later = way.iter().rev().find(|s| s.success && matches!(self.role(s.state), Role::Source(_)));
            if let Some(later) = later {
                let (service, later) = (service.state, later.state);
                let text = format!(
                    "LCMAPS goes on to {later} when {service} says no or does not answer; for glexec that ends the search"
                );
                notes.add(self.line(service), Effect::Stricter, text);
            }
        }
    }

    /// A source that LCMAPS never asks after the one that stands before it in our list.
    fn unconnected(&self, notes: &mut Notes) {
        let sources = self.sources();
        for pair in sources.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            let follows = |way: &&Vec<Step<'_>>| {
                let missed =
                    way.iter().position(|s| !s.success && self.role(s.state) == Role::Source(before.0));
                let asked = way.iter().position(|s| self.role(s.state) == Role::Source(after.0));
                missed.zip(asked).is_some_and(|(missed, asked)| missed < asked)
            };
            let both_asked = |way: &&Vec<Step<'_>>| {
                [before.0, after.0].iter().all(|n| way.iter().any(|s| self.role(s.state) == Role::Source(n)))
            };
            if !self.ways.iter().any(|w| follows(&w)) && !self.ways.iter().any(|w| both_asked(&w)) {
                let (before, after) = (before.1, after.1);
                let text =
                    format!("LCMAPS never asks {after} when {before} does not know the user; glexec does");
                notes.add(self.line(after), Effect::Looser, text);
            }
        }
    }
}

fn next(rule: &Rule, success: bool) -> Option<&Word> {
    if success { rule.success.as_ref() } else { rule.failure.as_ref() }
}

fn is_service(source: &str) -> bool {
    !source.ends_with("-mapfile")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const MODULES: &str = "verify = \"lcmaps_verify_proxy.mod\"\nban = \"lcmaps_ban_dn.mod -banmapfile /b\"\n\
        grid = \"lcmaps_localaccount.mod\"\nvoms = \"lcmaps_voms_localaccount.mod\"\n\
        gums = \"lcmaps_gums_client.mod\"\nsaz = \"lcmaps_saz_client.mod\"\ngood = \"lcmaps_dummy_good.mod\"\n\
        bad = \"lcmaps_dummy_bad.mod\"\np:\n";

    fn order_and_notes(rules: &str) -> (Vec<&'static str>, Vec<(Effect, String)>) {
        let database = Database::parse(&format!("{MODULES}{rules}")).unwrap();
        let flow = Flow::of(&database, &database.policies[0]).unwrap();
        let mut notes = Notes::about(Path::new("db"));
        flow.compare(&mut notes);
        let order = flow.sources().into_iter().map(|(name, _)| name).collect();
        (order, notes.list.into_iter().map(|n| (n.effect, n.text)).collect())
    }

    #[test]
    fn a_plain_chain_needs_no_word() {
        let rules = "verify -> ban\nban -> grid | bad\ngrid -> good | voms\nvoms -> good | bad\n";
        assert_eq!(order_and_notes(rules), (vec!["grid-mapfile", "voms-mapfile"], vec![]));
    }

    #[test]
    fn what_a_list_cannot_say_is_said() {
        for (rules, effect, words) in [
            ("grid -> good | bad\n", Effect::Stricter, "without verify_proxy"),
            ("verify -> ban\nban -> grid | gums\n", Effect::Stricter, "a ban is final"),
            ("verify -> gums\ngums -> grid\n", Effect::Looser, "gums and grid both"),
            ("verify -> gums\ngums -> saz\nsaz -> good | bad\n", Effect::Looser, "saz refuses"),
            ("verify -> gums\ngums -> good | grid\n", Effect::Stricter, "goes on to grid when gums"),
            ("verify -> ban\nban -> grid | voms\n", Effect::Looser, "never asks voms when grid"),
        ] {
            let (_, notes) = order_and_notes(rules);
            assert!(notes.iter().any(|(e, t)| *e == effect && t.contains(words)), "{rules}{notes:?}");
        }
    }

    #[test]
    fn too_many_ways_are_refused() {
        let mut rules = String::new();
        for n in 0..41 {
            rules.insert_str(0, &format!("b{n} = \"lcmaps_ban_dn.mod\"\n"));
        }
        rules.push_str("p:\n");
        (0..40).for_each(|n| rules.push_str(&format!("b{n} -> b{} | b{}\n", n + 1, n + 1)));
        let database = Database::parse(&rules).unwrap();
        assert!(Flow::of(&database, &database.policies[0]).is_err());
    }
}
