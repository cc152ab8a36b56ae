#!/bin/busybox sh
# The first process of a guest: makes it look like a host, runs the kernel tests or a measurement, and powers it off. What it
# prints after `closewait-vm:` is read by xtask/src/vm/report.rs and counted.rs.

/bin/busybox mkdir -p /proc /sys /dev /run /tmp /bin /sbin
/bin/busybox --install -s /bin
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
# Some kernels mount it by themselves.
mount -t devtmpfs dev /dev 2>/dev/null
# For the terminals of tests.
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
# As on a host, where only root makes folders in these; the root of an initramfs belongs to everybody on some kernels.
chmod 755 /
mount -t tmpfs -o mode=755 run /run
# Not mounted, as the workspace that the tests name may lie in it.
chmod 1777 /tmp
mkdir -p /sys/fs/cgroup /recordings
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
# An exporter looks a name up.
mkdir -p /etc
echo '127.0.0.1 localhost' >/etc/hosts
# The tests have ten thousand sockets at once, and their other ends.
ulimit -n 65536
# What the kernel says goes into its log, not between the lines of the tests.
dmesg -n 1

echo "closewait-vm: release $(uname -r)"
echo "closewait-vm: build $(uname -v)"
grep -q closewait.probe /proc/cmdline && poweroff -f

# MODULES, BTF, ARGUMENTS, UNIT_TESTS, and the variables that the tests read. For a measurement: MODULES and ARGUMENTS.
. /settings
for module in $MODULES; do
    case "$module" in
        *.xz) xzcat "/modules/$module" >/tmp/module.ko ;;
        *) cat "/modules/$module" >/tmp/module.ko ;;
    esac
    insmod /tmp/module.ko || echo "closewait-vm: trouble the module $module cannot be loaded"
done
rm -f /tmp/module.ko
[ "$BTF" = hidden ] && mount -t tmpfs none /sys/kernel/btf

if [ -f /measure ]; then
    # shellcheck disable=SC2086 # Several words.
    /measure $ARGUMENTS
    echo "closewait-vm: ended $?"
    poweroff -f
fi

cd /tests || echo "closewait-vm: trouble there is no folder /tests"
# Records before this one are the boot's.
echo "closewait-vm: the tests begin" >/dev/kmsg
if [ -f /tests/unit ]; then
    # shellcheck disable=SC2086 # Several words.
    /tests/unit --test-threads=1 $UNIT_TESTS
    echo "closewait-vm: unit tests ended $?"
fi
# shellcheck disable=SC2086 # Several words.
/tests/kernel --test-threads=1 $ARGUMENTS
echo "closewait-vm: ended $?"
for file in /recordings/*; do
    [ -f "$file" ] || continue
    echo "closewait-vm: file begins ${file##*/}"
    base64 "$file"
    echo "closewait-vm: file ends"
done
# The reading ends with the limit: at the last record it waits for the next one.
echo "closewait-vm: log begins"
timeout 5 cat /dev/kmsg
echo
echo "closewait-vm: log ends"
poweroff -f
