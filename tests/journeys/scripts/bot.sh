#!/bin/sh
# curl, cut and case: no newline at an answer's end to strip, none to wait for. Arguments: URL, key, service.
set -eu
url=$1 key=$2 service=$3

api() { curl -sS --compressed --data "api_key=$key&action=$1" --get ${2:+--data "$2"} "$url"; }
form() { curl -sS --data "api_key=$key&action=$1&$2" "$url"; }
must() { [ "$2" = "$1" ] || { echo "wanted $1, got $2" >&2; exit 1; }; }

code() {
    tries=0
    while [ $tries -lt 150 ]; do
        answer=$(form getStatus "id=$1")
        case $answer in
            STATUS_OK:*) echo "${answer#STATUS_OK:}"; return ;;
            STATUS_WAIT_CODE | STATUS_WAIT_RETRY:*) sleep 0.1 ;;
            *) echo "unknown $answer" >&2; exit 1 ;;
        esac
        tries=$((tries + 1))
    done
    exit 1
}

must ACCESS_BALANCE "$(api getBalance | cut -d: -f1)"
number=$(api getNumber "service=$service&country=6")
must ACCESS_NUMBER "$(echo "$number" | cut -d: -f1)"
id=$(echo "$number" | cut -d: -f2)
first=$(code "$id")
must ACCESS_RETRY_GET "$(form setStatus "id=$id&status=3")"
second=$(code "$id")
must ACCESS_ACTIVATION "$(form setStatus "id=$id&status=6")"
other=$(api getNumber "service=$service&country=6" | cut -d: -f2)
must ACCESS_CANCEL "$(form setStatus "id=$other&status=-1")"
echo "OK:$(echo "$number" | cut -d: -f3):$first:$second"
