//! smoke
use harness::Machine;
#[test]
fn smoke() {
    let m = Machine::builder().pilot("pilot").account("alice").build();
    m.map("alice", "alice");
    let proxy = m.proxy("alice", "pilot");
    for args in [
        vec!["/usr/bin/id"],
        vec![
            "/bin/sh",
            "-c",
            "env; pwd; ls -l /proc/self/fd; cat /proc/self/status | grep -E 'Cap|NoNew|Groups'; cat /proc/self/cgroup | tail -1; sleep 100 & exit 7",
        ],
        vec!["/bin/sh", "-c", "/usr/sbin/glexec /usr/bin/id; echo rc=$?"],
        vec!["/bin/sh", "-c", "kill -TERM $$"],
        vec!["/nonexist"],
        vec![],
    ] {
        let t = std::time::Instant::now();
        let mut r = m
            .glexec()
            .as_user("pilot")
            .env("GLEXEC_CLIENT_CERT", &proxy)
            .env("SECRET", "1");
        for a in &args {
            r = r.arg(a);
        }
        let out = r.output();
        println!("{args:?} {:?} {:?}", t.elapsed(), out);
    }
    println!("LOG {}", m.log());
    for r in m.records() {
        println!("{r}");
    }
    println!(
        "{:?}",
        std::fs::read_dir("/run/glexec/sessions").map(|d| d.count())
    );
    panic!("show");
}
