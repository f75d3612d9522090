# Run with every restriction of the unit, in the service's place: says of each thing whether it was refused.
# System calls by number: of x86-64, then of arm64.
use strict;
use warnings;
use Socket;

my $column = `uname -m` =~ /^x86_64/ ? 0 : 1;

sub call {
    my ($numbers, @arguments) = @_;
    return syscall($numbers->[$column], @arguments) != -1;
}

sub writes { open(my $file, '>', shift) or return 0; return 1 }
sub opens_socket { socket(my $socket, shift, shift, shift) or return 0; return 1 }

my @tries = (
    [refused => 'writing to /etc', sub { writes('/etc/probe') }],
    [refused => 'writing to /usr', sub { writes('/usr/probe') }],
    [refused => 'writing to /var/lib', sub { writes('/var/lib/probe') }],
    [refused => 'looking into /root', sub { opendir(my $directory, '/root') }],
    [refused => 'seeing other processes', sub { -e '/proc/1/status' }],
    [refused => 'a kernel setting', sub { writes('/proc/sys/vm/swappiness') }],
    [refused => 'a control group of its own', sub { mkdir '/sys/fs/cgroup/probe' }],
    [refused => 'a set-user-id file', sub { writes('/tmp/probe') && chmod 04755, '/tmp/probe' }],
    [refused => 'another root directory', sub { chroot '/tmp' }],
    [refused => 'a packet socket', sub { opens_socket(17, SOCK_RAW, 768) }],
    [refused => 'a netlink socket', sub { opens_socket(16, SOCK_RAW, 0) }],
    [refused => 'memory both writable and executable', sub { call([9, 222], 0, 4096, 7, 0x22, -1, 0) }],
    [refused => 'a mount', sub { call([165, 40], my $none = 'none', my $at = '/tmp', my $type = 'tmpfs', 0, 0) }],
    [refused => 'a name space', sub { call([272, 97], 0x10000000) }],
    [refused => 'a device node', sub { my $at = '/tmp/null'; call([259, 33], -100, $at, 020666, 0x103) }],
    [refused => 'the kernel log', sub { my $log = "\0" x 4096; call([103, 116], 3, $log, 4096) }],
    [refused => 'the clock', sub { my $time = pack 'qq', 1, 0; call([227, 112], 0, $time) }],
    [refused => 'real-time scheduling', sub { my $priority = pack 'i', 1; call([144, 119], 0, 1, $priority) }],
    [refused => 'another personality', sub { call([135, 92], 8) }],
    [refused => 'tracing another process', sub { call([101, 117], 16, getppid(), 0, 0) }],
    [allowed => 'a TCP socket', sub { opens_socket(AF_INET, SOCK_STREAM, 0) }],
    [allowed => 'a Unix socket', sub { opens_socket(AF_UNIX, SOCK_DGRAM, 0) }],
    [allowed => 'its runtime directory', sub { writes('/run/probe/file') }],
    [allowed => 'reading the memory of the machine', sub { open(my $file, '<', '/proc/meminfo') }],
);
for my $try (@tries) {
    my ($wanted, $what, $does) = @$try;
    my $got = $does->() ? 'allowed' : 'refused';
    print $got eq $wanted ? 'as wanted' : 'NOT AS WANTED', ": $what is $got\n";
}
print scalar(@tries), " tried\n";
