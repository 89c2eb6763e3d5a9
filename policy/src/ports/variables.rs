//! What a payload with ports finds in its environment. One table: the site chooses from it (`[ports] variables`), the agent sets
//! what was chosen, the docs show it.

use super::PortRange;

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    /// The variable; of a numbered one (`PILOT_PORT_0`) the first.
    pub name: &'static str,
    /// Whose it is, and what it does there.
    pub reader: &'static str,
    /// Whether payloads get it unless the site says otherwise.
    pub usual: bool,
    /// How it was tried with its reader.
    pub tried: &'static str,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `40000,40009`
    Comma,
    /// `40000-40009`
    Dash,
    /// `40000:40009`
    Colon,
    /// The first port.
    Low,
    /// The last port.
    High,
    /// The name to dial.
    Host,
    /// `1`: a switch.
    One,
    /// One variable for each port, numbered from 0.
    Each,
    /// `-Dorg.globus.tcp.port.range=40000,40009`
    Java,
}

const fn row(
    name: &'static str,
    form: Form,
    usual: bool,
    tried: &'static str,
    reader: &'static str,
) -> Variable {
    Variable { name, reader, usual, tried, form }
}

const GASS: &str = "globus-gass-server listens inside";
const NOT: &str = "not verified: its reader is not installed where this is tested";
const PLAIN: &str = "a payload prints it";

/// The table. In source ranges an outgoing connection takes a port of the block, and rests a minute after: not usual.
pub const VARIABLES: [Variable; 16] = [
    row("GLOBUS_TCP_PORT_RANGE", Form::Comma, true, GASS, "Globus: ports to listen on"),
    row("GLOBUS_TCP_SOURCE_RANGE", Form::Comma, false, NOT, "Globus: ports that connections go out from"),
    row("GLOBUS_UDP_PORT_RANGE", Form::Comma, false, NOT, "Globus: UDP ports to receive on"),
    row("GLOBUS_UDP_SOURCE_RANGE", Form::Comma, false, NOT, "Globus: UDP ports to send from"),
    row(
        "GLOBUS_HOSTNAME",
        Form::Host,
        true,
        "the URL of globus-gass-server has it",
        "Globus: the name in contacts",
    ),
    row(
        "MYPROXY_TCP_PORT_RANGE",
        Form::Comma,
        false,
        NOT,
        "MyProxy clients: ports that connections go out from",
    ),
    row("_CONDOR_LOWPORT", Form::Low, false, NOT, "HTCondor: lower end of its ports"),
    row("_CONDOR_HIGHPORT", Form::High, false, NOT, "HTCondor: upper end of its ports"),
    row("JAVA_TOOL_OPTIONS", Form::Java, false, NOT, "Java CoG kit, in every JVM"),
    row(
        "DCACHE_CLIENT_ACTIVE",
        Form::One,
        false,
        NOT,
        "dCap: the client connects to pools, so that none connects to it",
    ),
    row("DCCP_PORTS", Form::Colon, false, NOT, "for scripts: dccp -p $DCCP_PORTS"),
    row("MASTER_PORT", Form::Low, false, NOT, "torch.distributed: where the first process listens"),
    row("FI_TCP_PORT_LOW_RANGE", Form::Low, false, NOT, "libfabric: lower end of its ports"),
    row("FI_TCP_PORT_HIGH_RANGE", Form::High, false, NOT, "libfabric: upper end of its ports"),
    row("PILOT_PORTS", Form::Dash, true, PLAIN, "everybody: the block"),
    row(
        "PILOT_PORT_0",
        Form::Each,
        true,
        PLAIN,
        "everybody: one variable for each port, PILOT_PORT_0, PILOT_PORT_1 ...",
    ),
];

impl Variable {
    /// The row of a name.
    pub fn named(name: &str) -> Option<&'static Variable> {
        VARIABLES.iter().find(|variable| variable.name == name)
    }

    /// What is set for a payload that has the block and is dialled at `host`.
    pub fn settings(&self, block: PortRange, host: &str) -> Vec<(String, String)> {
        let (low, high) = (block.low(), block.high());
        let value = match self.form {
            Form::Comma => block.globus(),
            Form::Dash => block.to_string(),
            Form::Colon => format!("{low}:{high}"),
            Form::Low => low.to_string(),
            Form::High => high.to_string(),
            Form::Host => host.to_owned(),
            Form::One => "1".to_owned(),
            Form::Java => format!("-Dorg.globus.tcp.port.range={}", block.globus()),
            Form::Each => {
                let stem = self.name.trim_end_matches('0');
                let each = (low..=high).enumerate();
                return each.map(|(number, port)| (format!("{stem}{number}"), port.to_string())).collect();
            }
        };
        vec![(self.name.to_owned(), value)]
    }
}

/// The variables that a site has chosen by their names, or the usual ones.
///
/// # Errors
/// Names the first one that is not in the table, and those that are.
pub fn chosen(names: Option<&[String]>) -> Result<Vec<&'static Variable>, String> {
    let known = || VARIABLES.iter().map(|variable| variable.name).collect::<Vec<_>>().join(", ");
    let one = |name: &String| {
        let unknown = || format!("[ports] variables: no such variable {name:?}; known are {}", known());
        Variable::named(name).ok_or_else(unknown)
    };
    names.map_or_else(|| Ok(usual()), |names| names.iter().map(one).collect())
}

/// The variables that payloads get unless the site says otherwise.
pub fn usual() -> Vec<&'static Variable> {
    VARIABLES.iter().filter(|variable| variable.usual).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_writes_what_its_reader_reads() {
        let block = PortRange::parse("40000-40002").unwrap();
        let all: Vec<_> = VARIABLES.iter().flat_map(|v| v.settings(block, "nat.example.org")).collect();
        let value = |name: &str| all.iter().find(|(n, _)| n == name).unwrap().1.clone();
        assert_eq!(value("GLOBUS_TCP_PORT_RANGE"), "40000,40002");
        assert_eq!(value("GLOBUS_HOSTNAME"), "nat.example.org");
        assert_eq!((value("_CONDOR_LOWPORT"), value("_CONDOR_HIGHPORT")), ("40000".into(), "40002".into()));
        assert_eq!(value("JAVA_TOOL_OPTIONS"), "-Dorg.globus.tcp.port.range=40000,40002");
        assert_eq!((value("PILOT_PORTS"), value("PILOT_PORT_2")), ("40000-40002".into(), "40002".into()));
        assert_eq!(value("DCCP_PORTS"), "40000:40002");
        let one = chosen(Some(&["PILOT_PORTS".to_owned()])).unwrap();
        assert_eq!(one.iter().map(|v| v.name).collect::<Vec<_>>(), ["PILOT_PORTS"]);
        assert!(chosen(Some(&["PATH".to_owned()])).unwrap_err().contains("\"PATH\"; known are GLOBUS"));
        let usual: Vec<_> = chosen(None).unwrap().iter().map(|v| v.name).collect();
        assert_eq!(usual, ["GLOBUS_TCP_PORT_RANGE", "GLOBUS_HOSTNAME", "PILOT_PORTS", "PILOT_PORT_0"]);
        let names: std::collections::BTreeSet<_> = VARIABLES.iter().map(|v| v.name).collect();
        assert_eq!(names.len(), VARIABLES.len(), "each name once");
    }
}
