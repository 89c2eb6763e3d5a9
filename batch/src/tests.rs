//! What is said to each system, and what its real answers mean.

use super::*;

fn line(text: &str) -> Line {
    Line::parse(text).unwrap()
}

fn batch(system: System) -> Batch {
    Batch::here(system, line("pilot"))
}

fn job() -> Job {
    Job {
        name: JobName::parse("pp-0123456789ab").unwrap(),
        command: line("exec env A='b c' /usr/bin/pilot run"),
        cores: 4,
        memory_mib: Some(2000),
        walltime: 5430,
        queue: Some(line("long")),
        project: Some(line("grid")),
        environment: Some(line("smp")),
        output: line("/dev/null"),
        avoid: Vec::new(),
        options: Vec::new(),
    }
}

fn said(system: System, job: &Job) -> String {
    batch(system).submit_command(job).unwrap().argv.join(" ")
}

const SCRIPT: &str = "#!/bin/sh\nexec env A='b c' /usr/bin/pilot run\n";

#[test]
fn each_system_is_told_the_same_job_in_its_own_words() {
    assert_eq!(
        said(System::Slurm, &job()),
        "sbatch --parsable --no-requeue --job-name pp-0123456789ab --output /dev/null --nodes 1 --ntasks 1 \
         --cpus-per-task 4 --time 91 --mem 2000M --partition long --account grid"
    );
    assert_eq!(
        said(System::Oar, &job()),
        "oarsub -l /nodes=1/core=4,walltime=1:30:30 -n pp-0123456789ab -O /dev/null -E /dev/null -q long \
         --project grid exec env A='b c' /usr/bin/pilot run"
    );
    assert_eq!(
        said(System::GridEngine, &job()),
        "qsub -terse -N pp-0123456789ab -o /dev/null -j y -S /bin/sh -r n -l h_rt=5430,mem_free=2000M -pe smp 4 \
         -q long -P grid"
    );
    assert_eq!(
        said(System::Pbs, &job()),
        "qsub -N pp-0123456789ab -o /dev/null -j oe -r n -l nodes=1:ppn=4,walltime=1:30:30,mem=2000mb -q long -A grid"
    );
    for system in [System::Slurm, System::GridEngine, System::Pbs] {
        assert_eq!(batch(system).submit_command(&job()).unwrap().stdin, SCRIPT, "{system}");
    }
    let condor = batch(System::HtCondor).submit_command(&job()).unwrap();
    assert_eq!(condor.argv, ["condor_submit", "-terse", "-name", "long"]);
    for wanted in [
        "arguments = \"-c 'exec env A=''b c'' /usr/bin/pilot run'\"\n",
        "batch_name = pp-0123456789ab\n",
        "request_cpus = 4\n",
        "request_memory = 2000MB\n",
        "> 5430)\n",
        "accounting_group = grid\n",
    ] {
        assert!(condor.stdin.contains(wanted), "{wanted} in\n{}", condor.stdin);
    }
    assert!(condor.stdin.ends_with("queue 1\n"));
}

#[test]
fn nodes_are_avoided_where_the_system_can_be_told() {
    let avoid = ["wn1", "wn2.example.org", "x) | rm", "-x"].map(line).to_vec();
    let job = Job { avoid, ..job() };
    for (system, words) in [
        (System::Slurm, "--exclude wn1,wn2.example.org "),
        (System::Oar, "-p network_address NOT IN ('wn1','wn2.example.org') exec"),
        (System::GridEngine, ",h=!(wn1|wn2.example.org) "),
    ] {
        assert!(said(system, &job).contains(words), "{}", said(system, &job));
    }
    let condor = batch(System::HtCondor).submit_command(&job).unwrap().stdin;
    let words = "requirements = (Machine =!= \"wn1\") && (Machine =!= \"wn2.example.org\")\n";
    assert!(condor.contains(words), "{condor}");
    assert!(!said(System::Pbs, &job).contains("wn1"));
}

#[test]
fn what_a_system_has_no_words_for_is_refused() {
    let alone = Job { environment: None, ..job() };
    let refused = batch(System::GridEngine).submit_command(&alone).unwrap_err().to_string();
    assert!(refused.contains("parallel environment"), "{refused}");
    assert!(!said(System::GridEngine, &Job { cores: 1, ..alone }).contains("-pe"));
    let replaced = Job { command: line("echo $(date)"), ..job() };
    assert!(batch(System::HtCondor).submit_command(&replaced).is_err());
}

#[test]
fn only_slurm_and_grid_engine_can_be_asked_before() {
    let asked = |system| batch(system).check_command(&job()).unwrap().map(|c| c.argv[..3].join(" "));
    assert_eq!(asked(System::Slurm).unwrap(), "sbatch --test-only --job-name");
    assert_eq!(asked(System::GridEngine).unwrap(), "qsub -w v");
    for system in [System::Oar, System::Pbs, System::HtCondor, System::Local] {
        assert_eq!(asked(system), None, "{system}");
    }
}

#[test]
fn ids_are_found_in_real_answers() {
    let id = |system, text: &str| batch(system).parse_submitted(text).map(|id| id.to_string());
    let oar = "[ADMISSION RULE] Set default walltime to 7200.\n[ADMISSION RULE] Modify resource description with \
               type constraints\nOAR_JOB_ID=17\n";
    for (system, text, want) in [
        (System::Slurm, "12\n", "12"),
        (System::Slurm, "12;west\n", "12"),
        (System::Oar, oar, "17"),
        (System::GridEngine, "3\n", "3"),
        (System::Pbs, "4071.server.example.org\n", "4071.server.example.org"),
        (System::HtCondor, "12.0 - 12.0\n", "12.0"),
        (System::Local, "4711\n", "4711"),
    ] {
        assert_eq!(id(system, text).as_deref(), Ok(want), "{system}");
    }
}

#[test]
fn odd_answers_are_errors_that_show_the_line() {
    for (system, text) in [
        (System::Slurm, "Submitted batch job 12\n"),
        (System::Slurm, ""),
        (System::Oar, "# Error: no such queue\n"),
        (System::GridEngine, "Unable to run job: job rejected\n"),
        (System::Pbs, "qsub: Unknown queue\n"),
        (System::HtCondor, "12\n"),
        (System::Local, "sh: setsid: not found\n"),
    ] {
        let error = batch(system).parse_submitted(text).unwrap_err().to_string();
        assert!(error.contains(text.trim()) && error.starts_with(system.as_str()), "{error}");
    }
    for (system, text) in [
        (System::Slurm, "12|MELTED|node1|None|pp-1\n"),
        (System::Slurm, "slurm_load_jobs error: Unable to contact slurm controller\n"),
        (System::Oar, "{\"7\": {\"state\": \"Dreaming\"}}"),
        (System::Oar, "oarstat: cannot connect"),
        (System::GridEngine, "error: commlib error: got select error\n"),
        (System::Pbs, "Job Id: 7\n    job_state = ?\n"),
        (System::Pbs, "qstat: cannot connect to server\n"),
        (System::HtCondor, "-- Failed to fetch ads"),
        (System::HtCondor, "[{\"ClusterId\": 1, \"ProcId\": 0, \"JobStatus\": 9}]"),
        (System::Local, "ps: unknown option\n"),
    ] {
        assert!(batch(system).parse_status(text).is_err(), "{system}: {text}");
    }
}

fn listed(system: System, text: &str) -> Vec<(String, String, State, Option<String>)> {
    let jobs = batch(system).parse_status(text).unwrap();
    jobs.into_iter().map(|j| (j.id.to_string(), j.name, j.state, j.host)).collect()
}

fn row(id: &str, name: &str, state: State, host: Option<&str>) -> (String, String, State, Option<String>) {
    (id.into(), name.into(), state, host.map(str::to_owned))
}

#[test]
fn squeue_is_understood() {
    let text = "14|PENDING||Resources|pp-1\n13|RUNNING|node1|None|pp-2\n12|COMPLETED|node1|None|other|name\n\
                11|PENDING||JobHeldUser|pp-3\n10|NODE_FAIL|node2|None|pp-4\n";
    assert_eq!(
        listed(System::Slurm, text),
        [
            row("14", "pp-1", State::Pending, None),
            row("13", "pp-2", State::Running, Some("node1")),
            row("12", "other|name", State::Ended, Some("node1")),
            row("11", "pp-3", State::Held, None),
            row("10", "pp-4", State::Ended, Some("node2")),
        ]
    );
    assert_eq!(batch(System::Slurm).parse_status(text).unwrap()[0].why, "PENDING (Resources)");
}

#[test]
fn oarstat_is_understood() {
    let text = r#"{ "5" : { "Job_Id" : "5", "state" : "Running", "name" : "pp-1", "owner" : "pilot", "message" : "",
        "assigned_network_address" : [ "wn1", "wn1" ] },
        "6" : { "Job_Id" : "6", "state" : "Waiting", "name" : null, "assigned_network_address" : [],
        "message" : "Karma=0.0" }, "7" : { "state" : "Hold", "name" : "pp-3" } }"#;
    assert_eq!(
        listed(System::Oar, text),
        [
            row("5", "pp-1", State::Running, Some("wn1")),
            row("6", "", State::Pending, None),
            row("7", "pp-3", State::Held, None),
        ]
    );
    assert!(listed(System::Oar, "{}\n").is_empty() && listed(System::Oar, "").is_empty());
}

#[test]
fn qstat_of_grid_engine_is_understood() {
    let text = r#"<?xml version='1.0'?>
<job_info  xmlns:xsd="http://arc.liv.ac.uk/repos/darcs/sge/source/dist/util/resources/schemas/qstat/qstat.xsd">
  <queue_info>
    <job_list state="running">
      <JB_job_number>2</JB_job_number>
      <JAT_prio>0.55500</JAT_prio>
      <JB_name>pp-0123456789ab</JB_name>
      <JB_owner>pilot</JB_owner>
      <state>r</state>
      <JAT_start_time>2026-11-28T16:58:41</JAT_start_time>
      <queue_name>all.q@node.test</queue_name>
      <slots>1</slots>
    </job_list>
  </queue_info>
  <job_info>
    <job_list state="pending">
      <JB_job_number>3</JB_job_number>
      <JB_name>pp-2</JB_name>
      <state>qw</state>
      <queue_name></queue_name>
    </job_list>
    <job_list state="pending">
      <JB_job_number>4</JB_job_number>
      <JB_name>pp-3</JB_name>
      <state>Eqw</state>
      <queue_name></queue_name>
    </job_list>
  </job_info>
</job_info>"#;
    assert_eq!(
        listed(System::GridEngine, text),
        [
            row("2", "pp-0123456789ab", State::Running, Some("node.test")),
            row("3", "pp-2", State::Pending, None),
            row("4", "pp-3", State::Held, None),
        ]
    );
    let none = "<?xml version='1.0'?>\n<job_info xmlns:xsd=\"x\">\n  <queue_info>\n  </queue_info>\n  <job_info>\n  \
                </job_info>\n</job_info>";
    assert!(listed(System::GridEngine, none).is_empty());
}

#[test]
fn qstat_of_the_pbs_dialect_is_understood() {
    let torque = "Job Id: 7.server\n    Job_Name = pp-1\n    Job_Owner = pilot@ui.example.org\n    job_state = R\n    \
                  exec_host = wn1/0+wn1/1\n    Variable_List = PBS_O_HOME=/home/pilot,PBS_O_LANG=C,\n\
                  \tPBS_O_WORKDIR=/home/pilot\n\nJob Id: 8.server\n    Job_Name = theirs\n    Job_Owner = eve@ui\n    \
                  job_state = Q\n";
    assert_eq!(listed(System::Pbs, torque), [row("7.server", "pp-1", State::Running, Some("wn1"))]);
    let wrapper = "Job Id:\t9\n\tJob_Name = pp-2\n\tJob_Owner = pilot@ui\n\tjob_state = Q\n\tqueue = all\n";
    assert_eq!(listed(System::Pbs, wrapper), [row("9", "pp-2", State::Pending, None)]);
    assert!(listed(System::Pbs, "").is_empty());
}

#[test]
fn condor_q_is_understood() {
    let text = r#"[ { "ClusterId": 12, "ProcId": 0, "JobStatus": 2, "JobBatchName": "pp-1",
        "RemoteHost": "slot1_1@wn1.example.org" },
        { "ClusterId": 13, "ProcId": 0, "JobStatus": 5, "JobBatchName": "pp-2", "HoldReason": "memory" } ]"#;
    assert_eq!(
        listed(System::HtCondor, text),
        [
            row("12.0", "pp-1", State::Running, Some("wn1.example.org")),
            row("13.0", "pp-2", State::Held, None)
        ]
    );
    assert!(listed(System::HtCondor, "").is_empty() && listed(System::HtCondor, "[\n]\n").is_empty());
}

#[test]
fn ps_shows_only_jobs() {
    let text = "  501   501 Ss   /bin/sh -c (exec sleep 9); exit $? pp-1\n  502   501 S    sleep 9\n  \
                503   400 S+   /bin/sh -c (x) pp-2\n  504 504 Zs /bin/sh -c (exec true); exit $? pp-3\n";
    assert_eq!(listed(System::Local, text), [row("501", "pp-1", State::Running, None)]);
}

#[test]
fn local_jobs_are_started_found_and_ended() {
    use std::io::Write;
    use std::process::{Command as Program, Stdio};
    let run = |command: &Command| {
        let mut program = Program::new(&command.argv[0]);
        program.args(&command.argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn().unwrap();
        child.stdin.take().unwrap().write_all(command.stdin.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    let here = Batch::here(System::Local, line(&uid.to_string()));
    let name = format!("pt-{}", std::process::id());
    let command = line("exec sleep 600");
    let wanted = Job { name: JobName::parse(&name).unwrap(), command, ..job() };
    let id = here.parse_submitted(&run(&here.submit_command(&wanted).unwrap())).unwrap();
    let state = || {
        let jobs = here.parse_status(&run(&here.status_command())).unwrap();
        jobs.into_iter().find(|job| job.name == name).map(|job| job.id)
    };
    // The new process becomes a session's leader in its own time.
    let until = |wanted: Option<JobId>| {
        (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(50));
            state() == wanted
        })
    };
    let found = until(Some(id.clone()));
    run(&here.cancel_command(&id));
    assert!(found, "it is listed by its name");
    assert!(until(None), "it is gone after the signal");
}

#[test]
fn over_ssh_every_word_is_quoted_once() {
    let far = batch(System::Oar).over_ssh(line("pilot@front")).unwrap();
    let command = far.submit_command(&Job { command: line("echo 'it'"), ..job() }).unwrap();
    assert_eq!(
        command.argv[..7],
        ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "--", "pilot@front"]
    );
    assert!(command.argv[7].ends_with(r"--project grid 'echo '\''it'\'''"), "{:?}", command.argv);
    let far = batch(System::Slurm).over_ssh(line("front")).unwrap();
    assert_eq!(far.submit_command(&job()).unwrap().stdin, SCRIPT);
    assert_eq!(far.cancel_command(&JobId::parse("12").unwrap()).argv.last().unwrap(), "scancel 12");
    assert!(batch(System::Slurm).over_ssh(line("-oProxyCommand=x")).is_err());
}

#[test]
fn words_that_could_be_something_else_are_refused() {
    for bad in ["", "a\nb", "a\u{7}"] {
        assert!(Line::parse(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "1a", "a b", "pp-0123456789abc", "a_b"] {
        assert!(JobName::parse(bad).is_err(), "{bad:?}");
    }
    for bad in ["", "-1", "x7", "7 8", "7;rm", "7\n"] {
        assert!(JobId::parse(bad).is_err(), "{bad:?}");
    }
    assert!("slurm".parse() == Ok(System::Slurm) && "sge".parse::<System>().is_err());
}
