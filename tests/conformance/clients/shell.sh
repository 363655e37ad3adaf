#!/bin/sh
# curl, cut and case: no newline at an answer's end to strip, none to wait for. Arguments: URL, root, key.
#
# from: POSIX shell with curl
# path: /stubs/handler_api.php
# calls: balance prices number waiting code again finish cancel bad_key no_numbers bad_service
set -eu
url=$1 key=$3 service=tg

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
before=$(api getBalance)
echo ok balance
api getPrices "service=$service&country=6" | grep -q "\"$service\":{\"cost\":[0-9.]*,"
echo ok prices
number=$(api getNumber "service=$service&country=6")
must ACCESS_NUMBER "$(echo "$number" | cut -d: -f1)"
must 62 "$(echo "$number" | cut -d: -f3 | cut -c1-2)"
echo ok number
id=$(echo "$number" | cut -d: -f2)
must STATUS_WAIT_CODE "$(form getStatus "id=$id")"
echo ok waiting
first=$(code "$id")
case $first in *[!0-9]* | "") echo "no code: $first" >&2; exit 1 ;; esac
echo ok code
must ACCESS_RETRY_GET "$(form setStatus "id=$id&status=3")"
second=$(code "$id")
[ "$second" != "$first" ]
echo ok again
must ACCESS_ACTIVATION "$(form setStatus "id=$id&status=6")"
must STATUS_CANCEL "$(form getStatus "id=$id")"
echo ok finish
[ "$(api getBalance)" != "$before" ]
before=$(api getBalance)
other=$(api getNumber "service=$service&country=6" | cut -d: -f2)
must ACCESS_CANCEL "$(form setStatus "id=$other&status=-1")"
must "$before" "$(api getBalance)"
echo ok cancel
must BAD_KEY "$(curl -sS "$url?api_key=wrong&action=getBalance")"
echo ok bad_key
must NO_NUMBERS "$(api getNumber "service=zz&country=204")"
echo ok no_numbers
must BAD_SERVICE "$(api getNumber "service=nonsense&country=6")"
echo ok bad_service
