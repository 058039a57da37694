
# Everything above was quoted by a machine; everything below is the same on every card.
boot=/boot/firmware
helper=/usr/lib/raspberrypi-sys-mods/imager_custom
userconf=/usr/lib/userconf-pi/userconf
failed=

step() { # run one command; a failure is written down and does not stop the rest
  "$@" && return
  echo "firstrun: failed: $1" >&2
  failed="$failed $1"
}

set_name() {
  if [ -x "$helper" ]; then
    "$helper" set_hostname "$name"
    return
  fi
  printf '%s\n' "$name" > /etc/hostname
  sed -i '/^127\.0\.1\.1/d' /etc/hosts
  printf '127.0.1.1\t%s\n' "$name" >> /etc/hosts
}

set_user() {
  if [ -x "$userconf" ]; then
    "$userconf" "$login" "${password_hash:-!}" || return
  else
    id "$login" > /dev/null 2>&1 || useradd -m -s /bin/bash -G sudo "$login" || return
    printf '%s:%s\n' "$login" "${password_hash:-!}" | chpasswd -e || return
  fi
  [ -z "$free_sudo" ] && return
  mkdir -p /etc/sudoers.d
  printf '%s ALL=(ALL) NOPASSWD: ALL\n' "$login" > /etc/sudoers.d/010_bramble
  chmod 0440 /etc/sudoers.d/010_bramble
}

set_ssh() {
  [ -z "$enable_ssh" ] && return
  answer=no
  [ -n "$password_ssh" ] && answer=yes
  mkdir -p /etc/ssh/sshd_config.d
  printf 'PasswordAuthentication %s\n' "$answer" > /etc/ssh/sshd_config.d/10-bramble.conf
  if [ -n "$ssh_keys" ]; then
    home=$(getent passwd "$login" | cut -d: -f6)
    group=$(id -gn "$login") || return
    mkdir -p "$home/.ssh" || return
    printf '%s\n' "$ssh_keys" > "$home/.ssh/authorized_keys"
    chown "$login:$group" "$home/.ssh" "$home/.ssh/authorized_keys"
    chmod 0700 "$home/.ssh"
    chmod 0600 "$home/.ssh/authorized_keys"
  fi
  systemctl -q enable ssh
}

set_wifi() {
  [ -z "$connection" ] && return
  folder=/etc/NetworkManager/system-connections
  mkdir -p "$folder"
  (umask 077 && printf '%s' "$connection" > "$folder/preconfigured.nmconnection") || return
  chmod 0600 "$folder/preconfigured.nmconnection"
  command -v raspi-config > /dev/null && raspi-config nonint do_wifi_country "$country"
  rfkill unblock wifi
  for state in /var/lib/systemd/rfkill/*:wlan; do
    [ -e "$state" ] && echo 0 > "$state"
  done
  return 0
}

set_locale() {
  [ -z "$locale" ] && return
  if command -v raspi-config > /dev/null; then
    raspi-config nonint do_change_locale "$locale"
    return
  fi
  printf '%s UTF-8\n' "$locale" >> /etc/locale.gen
  locale-gen && update-locale "LANG=$locale"
}

set_keymap() {
  [ -z "$keymap" ] && return
  [ -x "$helper" ] && "$helper" set_keymap "$keymap"
}

set_timezone() {
  if [ -x "$helper" ]; then
    "$helper" set_timezone "$timezone"
    return
  fi
  [ -e "/usr/share/zoneinfo/$timezone" ] || return
  ln -sfn "/usr/share/zoneinfo/$timezone" /etc/localtime
  printf '%s\n' "$timezone" > /etc/timezone
}

finish() { # never again, whatever went wrong: a loop of reboots helps nobody
  mkdir -p "$boot/bramble"
  state=ok
  [ -n "$failed" ] && state=failed
  printf '%s %s settings %s%s\n' "$(cut -d' ' -f1 /proc/uptime)" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$state" "$failed" \
    >> "$boot/bramble/status.log"
  sed -i 's| systemd\.run[^ ]*||g; s| systemd\.unit=kernel-command-line\.target||g' "$boot/cmdline.txt"
  rm -f "$boot/firstrun.sh"
  sync
  exit 0
}

step set_name
step set_user
step set_ssh
step set_wifi
step set_locale
step set_keymap
step set_timezone
