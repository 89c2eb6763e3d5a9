//! How servers and clients that are not started by a pilot are told the range: snippets of the firewall guide of Globus.

use policy::ports::PortRange;

/// What the snippets are about.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// The callback range.
    pub range: PortRange,
    /// The name to dial, where the site sets one.
    pub hostname: Option<&'a str>,
    /// The port of the GridFTP server.
    pub gridftp: u16,
}

impl Told<'_> {
    fn settings(&self) -> Vec<String> {
        let range = format!("GLOBUS_TCP_PORT_RANGE={}", self.range.globus());
        let host = self.hostname.map(|host| format!("GLOBUS_HOSTNAME={host}"));
        [Some(range), host].into_iter().flatten().collect()
    }
}

const NEVER_WRAP: &str = "# Never wrap a GridFTP server that root starts in a script: whoever may change the script, or what it calls, is\n\
    # root. Give it its range by inetd or xinetd, or by port_range in /etc/gridftp.conf.\n";

/// A line of `inetd.conf(5)`.
pub fn inetd(told: &Told<'_>) -> String {
    let settings = told.settings().join(" ");
    let service = if told.gridftp == 2811 { "gsiftp".to_owned() } else { told.gridftp.to_string() };
    format!(
        "# /etc/inetd.conf; env(1) sets the range and is replaced by the server.\n{NEVER_WRAP}\
         {service} stream tcp nowait root /usr/bin/env env {settings} /usr/sbin/globus-gridftp-server -i\n"
    )
}

/// A file of `xinetd.d`.
pub fn xinetd(told: &Told<'_>) -> String {
    let settings: String = told.settings().iter().map(|one| format!("    env += {one}\n")).collect();
    format!(
        "# /etc/xinetd.d/gsiftp\n{NEVER_WRAP}service gsiftp\n{{\n    type = UNLISTED\n    port = {}\n    socket_type = stream\n    \
         protocol = tcp\n    wait = no\n    user = root\n{settings}    server = /usr/sbin/globus-gridftp-server\n    \
         server_args = -i\n    disable = no\n}}\n",
        told.gridftp
    )
}

/// A script around a client.
pub fn wrapper(told: &Told<'_>) -> String {
    let settings: String = told.settings().iter().map(|one| format!("export {one}\n")).collect();
    format!(
        "#!/bin/sh\n# Starts a client with the range: NAME COMMAND [ARGUMENT]...\n{NEVER_WRAP}{settings}exec \"$@\"\n"
    )
}

/// Options of a Java program.
pub fn java(told: &Told<'_>) -> String {
    let host = told.hostname.map(|host| format!(" -DGLOBUS_HOSTNAME={host}")).unwrap_or_default();
    format!("-Dorg.globus.tcp.port.range={}{host}\n", told.range.globus())
}

/// `cog.properties` of the Java CoG kit.
pub fn cog(told: &Told<'_>) -> String {
    let ip = told.hostname.map(|host| format!("ip={host}\n")).unwrap_or_default();
    format!("# ~/.globus/cog.properties\ntcp.port.range={}\n{ip}", told.range.globus())
}
