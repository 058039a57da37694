#!/bin/busybox sh
# Mount what root=PARTUUID= names and go on with its own init. busybox's findfs does not know PARTUUID, so
# the disk's signature (4 bytes at offset 440, little-endian) and the partition's number are compared here.
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do /bin/busybox insmod "$module"; done

for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in root=PARTUUID=*) wanted=${word#root=PARTUUID=} ;; esac
done

signature() {
    /bin/busybox dd if="$1" bs=1 skip=440 count=4 2>/dev/null | /bin/busybox hexdump -v -e '1/1 "%02x "' |
        /bin/busybox awk '{print $4 $3 $2 $1}'
}

find_root() {
    for partition in /sys/class/block/*/partition; do
        folder=${partition%/partition}
        disk=$(/bin/busybox basename "$(/bin/busybox readlink -f "$folder/..")")
        number=$(/bin/busybox printf '%02x' "$(/bin/busybox cat "$partition")")
        if [ "$(signature "/dev/$disk")-$number" = "$wanted" ]; then
            echo "/dev/${folder##*/}"
            return
        fi
    done
}

tries=0
until device=$(find_root) && [ -n "$device" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ]; then
        echo "initrd: no partition $wanted"
        /bin/busybox poweroff -f
    fi
    /bin/busybox sleep 0.1
done
/bin/busybox mount -t ext4 -o rw "$device" /root || { echo "initrd: $device cannot be mounted"; /bin/busybox poweroff -f; }
/bin/busybox mount --move /proc /root/proc
/bin/busybox mount --move /sys /root/sys
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
