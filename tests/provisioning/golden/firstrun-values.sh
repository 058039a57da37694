#!/bin/sh
name=pi-1
login=anna
password_hash='$6$c2FsdHNhbHQ$0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ./0123456789'
ssh_keys='ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKq1x0rP9vY6uVtq2Zl8mB4cD5eF6gH7iJ8kL9mN0oPq anna@desk'
enable_ssh=yes
password_ssh=''
free_sudo=''
country=DE
connection='[connection]
id=preconfigured
type=wifi

[wifi]
mode=infrastructure
ssid=119;97;114;100;32;110;101;116;
hidden=true

[wifi-security]
key-mgmt=wpa-psk
psk=914ad5401700279917219d436f128eaf48819e9e578d7f20d9e4e59b9117b93f

[ipv4]
method=auto

[ipv6]
addr-gen-mode=default
method=auto
'
locale=de_DE.UTF-8
keymap=de
timezone=Europe/Berlin
