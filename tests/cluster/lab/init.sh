#!/lab/busybox sh
# PID 1 of a lab node: gives a container what a machine would have, then becomes systemd.
export container=docker
bb=/lab/busybox

# /usr of the host, read-only, under a private layer on the node's own volume: packages can be installed, and survive a reboot.
$bb mkdir -p /lab/upper/u /lab/upper/w
$bb mount -t overlay usr -o lowerdir=/lab/usr,upperdir=/lab/upper/u,workdir=/lab/upper/w /usr

# Docker shows us our own part of the cgroup tree, read-only. On v1 systemd also wants the v2 tree, to hear of empty cgroups.
mount -o remount,bind,rw /sys 2>/dev/null || mount -o remount,rw /sys
mount -o remount,bind,rw /sys/fs/cgroup
if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then
  for hierarchy in /sys/fs/cgroup/*/; do mount -o remount,bind,rw "$hierarchy"; done
  mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi

# Devices that --privileged would have given.
node() { [ -e "$1" ] || mknod -m "$5" "$1" "$2" "$3" "$4"; }
mkdir -p /dev/net
node /dev/fuse c 10 229 666
node /dev/net/tun c 10 200 666
node /dev/loop-control c 10 237 660
i=0
while [ $i -lt 16 ]; do node /dev/loop$i b 7 $i 660; i=$((i + 1)); done
[ -e /dev/kmsg ] || ln -s /dev/null /dev/kmsg

# The kernel's boot id is the host's; a machine has another after each boot.
cat /proc/sys/kernel/random/uuid >/run/gestalt-lab-boot-id
mount --bind /run/gestalt-lab-boot-id /proc/sys/kernel/random/boot_id

mount --make-rshared /
exec /sbin/init "$@"
