# Tries what a payload must not be able to do to its neighbour, to the pilot and to glexec. Each attempt prints one
# line that ends in "refused (why)" or in "SUCCEEDED". Whom to attack stands in the environment.
use strict;
use warnings;

use POSIX ();

$| = 1;
my $number = 0;

# Runs the ways of one attempt; each returns undef when it worked and the reason when it was refused.
sub attempt {
    my ($what, @ways) = @_;
    $number++;
    my @reasons = map { $_->() } @ways;
    my $worked = grep { !defined } @reasons;
    my %seen;
    my $reasons = join ', ', grep { !$seen{$_}++ } map { $_ // () } @reasons;
    print "attempt $number: $what: ", $worked ? "SUCCEEDED" : "refused ($reasons)", "\n";
}

sub reading {
    my $path = shift;
    return sub {
        open(my $file, '<', $path) or return "$!";
        return defined sysread($file, my $bytes, 1) ? undef : "$!";
    };
}

sub listing {
    my $path = shift;
    return sub { opendir(my $dir, $path) ? undef : "$!" };
}

sub signalling {
    my ($signal, $pid) = @_;
    return sub { kill($signal, $pid) ? undef : "$!" };
}

sub tracing {
    my $pid = shift;
    my %ptrace = (x86_64 => 101, aarch64 => 117, riscv64 => 117);
    my $call = $ptrace{(POSIX::uname())[4]} // return sub { "no number for ptrace here" };
    return sub { syscall($call, 16, $pid + 0, 0, 0) == -1 ? "$!" : undef };    # PTRACE_ATTACH
}

# glexec refuses by an exit code and a line on standard error; anything it runs for us is a success of the attack.
sub glexec {
    my %environment = @_;
    return sub {
        local %ENV = %environment;
        my $said = `/usr/sbin/glexec /usr/bin/id -u 2>&1`;
        my $code = $? >> 8;
        $said =~ s/\s+/ /g;
    $said =~ s/ $//;
        $said = substr($said, 0, 100) . '...' if length $said > 100;
        return $? == 0 ? undef : "$code: $said";
    };
}

my %e = %ENV;
my ($alice, $pilot) = @e{qw(ALICE_PID AGENT_PID)};
my $own = $e{X509_USER_PROXY};

attempt("read Alice's files", listing($e{ALICE_DIR}), reading("$e{ALICE_DIR}/result.txt"));
attempt("read Alice's proxy", reading($e{ALICE_PROXY}));
attempt("read the pilot's proxy", reading($e{AGENT_PROXY}));
attempt("signal the pilot", signalling(0, $pilot), signalling('TERM', $pilot));
attempt("signal Alice's payload", signalling(0, $alice), signalling('KILL', $alice));
attempt("look into the pilot's memory",
    reading("/proc/$pilot/environ"), reading("/proc/$pilot/mem"), tracing($pilot));
attempt("call glexec with the own proxy", glexec(%e, GLEXEC_CLIENT_CERT => $own));
attempt("call glexec with a cleared environment and Alice's proxy",
    glexec(GLEXEC_CLIENT_CERT => $e{ALICE_PROXY}), glexec(GLEXEC_CLIENT_CERT => $own));
