# Listens on the first port it was given, as a Globus program would, and answers until it is told "bye".
use strict;
use warnings;
use IO::Socket::INET;

$| = 1;
alarm 600;    # who is never called back ends all the same
my $sum = 0;
$sum += sqrt $_ for 1 .. 2_000_000;    # some work, so that there is CPU time to account for
my ($low, $high) = split /,/, $ENV{GLOBUS_TCP_PORT_RANGE} // die "no GLOBUS_TCP_PORT_RANGE\n";
my $server = IO::Socket::INET->new(LocalPort => $low, Listen => 5, ReuseAddr => 1)
    or die "cannot listen on port $low: $!\n";
print "listening: port=$low range=$low-$high\n";
while (my $client = $server->accept) {
    my $word = <$client> // '';
    printf $client "hello from %s, uid %d\n", scalar getpwuid($<), $<;
    last if $word =~ /^bye/;
}
print "called back\n";
