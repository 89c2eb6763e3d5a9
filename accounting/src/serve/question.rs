//! Questions as they stand in a URL: the same names and forms as the options of the command line, read by the same code.

use crate::filter::Filter;
use crate::filter_args::{FilterArgs, moment};
use crate::store::Cursor;
use crate::when::Moment;
use clap::{Args, FromArgMatches};

/// Most records of one page.
pub const MOST: usize = 10_000;

/// `GET /v1/sessions`, `GET /v1/tree`.
#[derive(Debug, Args)]
pub struct Sessions {
    #[command(flatten)]
    filter: FilterArgs,
    /// Records of one page, 1 to 10000
    #[arg(long, default_value_t = 1000, value_parser = limit)]
    pub limit: usize,
    /// "next" of the page before
    #[arg(long)]
    pub cursor: Option<Cursor>,
}

impl Sessions {
    /// Which records are meant.
    pub fn filter(&self) -> Filter {
        self.filter.filter()
    }
}

/// `GET /v1/whowas`.
#[derive(Debug, Args)]
pub struct WhoWas {
    /// Uid of the account
    #[arg(long)]
    uid: u32,
    /// Host, by full or short name
    #[arg(long)]
    host: String,
    /// The moment
    #[arg(long, value_parser = moment)]
    at: Moment,
}

impl WhoWas {
    /// Which records are meant.
    pub fn filter(&self) -> Filter {
        Filter::holder(self.uid, self.host.clone(), self.at)
    }
}

/// Why a question is none, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadQuestion(pub String);

/// Reads the parameters of a URL. Names are those of the options, with `_` for `-`.
///
/// # Errors
/// Names the parameter that is unknown, twice there, or has no such value.
pub fn parse<T: Args + FromArgMatches>(pairs: &[(String, String)]) -> Result<T, BadQuestion> {
    let command = T::augment_args(bare());
    let mut words = vec!["question".to_owned()];
    for (name, value) in pairs {
        let known = command.get_arguments().find(|arg| parameter(arg).as_deref() == Some(name));
        let Some(known) = known else {
            let names: Vec<String> = command.get_arguments().filter_map(parameter).collect();
            let text = format!("there is no parameter {name:?}; these are known: {}", names.join(", "));
            return Err(BadQuestion(text));
        };
        let option = format!("--{}", known.get_long().unwrap_or_default());
        let is_switch = !known.get_action().takes_values();
        match (is_switch, value.as_str()) {
            (true, "true") => words.push(option),
            (true, "false") => {}
            (true, _) => return Err(BadQuestion(format!("{name}: write true or false"))),
            (false, value) => words.push(format!("{option}={value}")),
        }
    }
    let matches = command.try_get_matches_from(words);
    let read = matches.and_then(|matches| T::from_arg_matches(&matches));
    read.map_err(|error| BadQuestion(told(&error)))
}

/// A command without anything but what is added to it.
pub fn bare() -> clap::Command {
    clap::Command::new("question")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(false)
}

/// The name of an option as a parameter.
pub fn parameter(arg: &clap::Arg) -> Option<String> {
    arg.get_long().map(|long| long.replace('-', "_"))
}

/// The first line of what clap says; what follows speaks of a command line.
fn told(error: &clap::Error) -> String {
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    identity::one_line(first.strip_prefix("error: ").unwrap_or(first))
}

fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=MOST).contains(&limit) => Ok(limit),
        _ => Err(format!("write a number from 1 to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter_args::Summary;
    use record::Role;

    fn pairs(text: &[(&str, &str)]) -> Vec<(String, String)> {
        text.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_are_the_options() {
        let asked: Sessions = parse(&pairs(&[
            ("dn", "/CN=Ada, B"),
            ("cred_sha256", "AB"),
            ("running", "true"),
            ("lost", "false"),
            ("limit", "7"),
            ("cursor", "5.6"),
        ]))
        .unwrap();
        let filter = asked.filter();
        assert_eq!((filter.dn.as_deref(), filter.cred_sha256.as_deref()), (Some("/CN=Ada, B"), Some("ab")));
        assert!(filter.running && !filter.lost && asked.limit == 7 && asked.cursor.is_some());
        let sums: Summary = parse(&pairs(&[("by", "vo,month"), ("month", "2026-07")])).unwrap();
        assert_eq!((sums.by.len(), sums.filter().role), (2, Some(Role::Payload)));
    }

    #[test]
    fn what_is_unknown_or_contradicts_is_named() {
        for (asked, why) in [
            (vec![("dnn", "x")], "there is no parameter \"dnn\""),
            (vec![("help", "true")], "there is no parameter"),
            (vec![("uid", "x")], "uid"),
            (vec![("uid", "1"), ("uid", "2")], "uid"),
            (vec![("running", "yes")], "write true or false"),
            (vec![("limit", "0")], "1 to 10000"),
            (vec![("since", "yesterday")], "since"),
            (vec![("cursor", "x")], "next"),
        ] {
            let told = parse::<Sessions>(&pairs(&asked)).unwrap_err().to_string();
            assert!(told.contains(why), "{asked:?}: {told}");
        }
        assert!(parse::<Summary>(&pairs(&[("month", "2026-07"), ("since", "1d")])).is_err());
        assert!(parse::<WhoWas>(&pairs(&[("uid", "1")])).is_err());
    }
}
