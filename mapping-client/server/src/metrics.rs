//! Figures for Prometheus: what was asked since the start, and how it was answered.

use mapping_client::xacml::answer::Decision;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The interfaces, in the order of their counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// GUMS and SCAS.
    Xacml,
    /// The PEP daemon of Argus.
    Argus,
    /// The JSON of GUMS 1.5.
    Json,
}

const INTERFACES: [(Interface, &str); 3] =
    [(Interface::Xacml, "xacml"), (Interface::Argus, "argus"), (Interface::Json, "json")];

/// Decisions, and last the queries that got none.
const OUTCOMES: [&str; 5] = ["permit", "deny", "not_applicable", "indeterminate", "refused"];

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: [[AtomicU64; OUTCOMES.len()]; INTERFACES.len()],
    micros: [AtomicU64; INTERFACES.len()],
    reloads: [AtomicU64; 2],
}

impl Metrics {
    /// A query was answered with this decision, or refused, after this time.
    pub fn answered(&self, interface: Interface, decision: Option<Decision>, took: Duration) {
        let outcome = match decision {
            Some(Decision::Permit) => 0,
            Some(Decision::Deny) => 1,
            Some(Decision::NotApplicable) => 2,
            Some(Decision::Indeterminate) => 3,
            None => 4,
        };
        let interface = interface as usize;
        self.queries[interface][outcome].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros[interface].fetch_add(micros, Ordering::Relaxed);
    }

    /// The configuration was read again, or could not be.
    pub fn reloaded(&self, good: bool) {
        self.reloads[usize::from(!good)].fetch_add(1, Ordering::Relaxed);
    }

    /// In the text format of Prometheus, version 0.0.4.
    pub fn text(&self) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut out = String::from(
            "# HELP mapping_queries_total Queries since the start, by interface and outcome.\n\
             # TYPE mapping_queries_total counter\n",
        );
        // Writing to a string cannot fail.
        for (interface, name) in INTERFACES {
            for (outcome, counter) in OUTCOMES.iter().zip(&self.queries[interface as usize]) {
                let labels = format!("interface=\"{name}\",outcome=\"{outcome}\"");
                let _ = writeln!(out, "mapping_queries_total{{{labels}}} {}", count(counter));
            }
        }
        out.push_str(
            "# HELP mapping_query_seconds Time from a whole query to its answer.\n# TYPE mapping_query_seconds summary\n",
        );
        for (interface, name) in INTERFACES {
            let micros = count(&self.micros[interface as usize]);
            let number: u64 = self.queries[interface as usize].iter().map(count).sum();
            let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
            let _ = writeln!(out, "mapping_query_seconds_sum{{interface=\"{name}\"}} {seconds}");
            let _ = writeln!(out, "mapping_query_seconds_count{{interface=\"{name}\"}} {number}");
        }
        out.push_str(
            "# HELP mapping_reloads_total Attempts to read the configuration again.\n# TYPE mapping_reloads_total counter\n",
        );
        for (result, counter) in ["good", "broken"].iter().zip(&self.reloads) {
            let _ = writeln!(out, "mapping_reloads_total{{result=\"{result}\"}} {}", count(counter));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_query_counts_once_and_under_its_name() {
        let metrics = Metrics::default();
        let took = Duration::from_millis(1500);
        metrics.answered(Interface::Xacml, Some(Decision::Permit), took);
        metrics.answered(Interface::Xacml, Some(Decision::Deny), took);
        metrics.answered(Interface::Json, None, took);
        metrics.reloaded(false);
        let text = metrics.text();
        for line in [
            "mapping_queries_total{interface=\"xacml\",outcome=\"permit\"} 1",
            "mapping_queries_total{interface=\"xacml\",outcome=\"deny\"} 1",
            "mapping_queries_total{interface=\"argus\",outcome=\"permit\"} 0",
            "mapping_queries_total{interface=\"json\",outcome=\"refused\"} 1",
            "mapping_query_seconds_sum{interface=\"xacml\"} 3.000000",
            "mapping_query_seconds_count{interface=\"xacml\"} 2",
            "mapping_reloads_total{result=\"broken\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}: {text}");
        }
    }
}
