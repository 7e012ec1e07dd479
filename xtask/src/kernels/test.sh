#!/bin/busybox sh
# Runs the self-test in all ways and says what came of each, between lines that begin with @.
export PATH=/usr/bin:/bin
b=/bin/busybox
cd /
$b mkdir -p dev etc home/user proc sys tmp
for applet in cat echo false ls sh true; do $b ln -s busybox bin/$applet; done
echo 'root:*:1::::::' > etc/shadow
$b chmod 600 etc/shadow
echo 'root:x:0:0::/:/bin/sh' > etc/passwd
echo 'user:x:1000:1000::/home/user:/bin/sh' >> etc/passwd
$b mount -t proc none /proc
$b mount -t sysfs none /sys
$b mount -t devtmpfs none /dev
$b mkdir -p /dev/pts /dev/shm
$b mount -t devpts none /dev/pts
$b mount -t tmpfs -o mode=1777 none /dev/shm
$b chmod 1777 /tmp
$b chown -R 1000:1000 /home/user
$b ip link set lo up
read -r _ _ release _ < /proc/version
echo "@ kernel $release"
self_test() {
    echo "@ begin $1 root"
    portolan sandbox selftest 2>&1
    echo "@ end $?"
    echo "@ begin $1 user"
    $b su -s /bin/sh user -c 'HOME=/home/user portolan sandbox selftest' 2>&1
    echo "@ end $?"
}
self_test on
echo 0 > /proc/sys/user/max_user_namespaces
self_test off
$b poweroff -f
