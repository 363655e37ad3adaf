<?php
// As on a hundred forums: file_get_contents, explode(':'), equality. Arguments: URL, key, service.
[, $url, $key, $service] = $argv;

function api($action, $more = '') {
    global $url, $key;
    $answer = file_get_contents("$url?api_key=$key&action=$action$more");
    if ($answer === false) exit("no answer\n");
    return $answer;
}

function code($id) {
    for ($i = 0; $i < 150; $i++) {
        $parts = explode(':', api('getStatus', "&id=$id"));
        if ($parts[0] == 'STATUS_OK') return $parts[1];
        if ($parts[0] != 'STATUS_WAIT_CODE' && $parts[0] != 'STATUS_WAIT_RETRY') exit("unknown {$parts[0]}\n");
        usleep(100000);
    }
    exit("no code\n");
}

$before = explode(':', api('getBalance'));
if ($before[0] !== 'ACCESS_BALANCE') exit("balance\n");
$number = explode(':', api('getNumber', "&service=$service&country=6"));
if (count($number) !== 3 || $number[0] !== 'ACCESS_NUMBER') exit("number\n");
[, $id, $phone] = $number;
$first = code($id);
if (api('setStatus', "&id=$id&status=3") !== 'ACCESS_RETRY_GET') exit("retry\n");
$second = code($id);
if (api('setStatus', "&id=$id&status=6") !== 'ACCESS_ACTIVATION') exit("finish\n");
[, $id] = explode(':', api('getNumber', "&service=$service&country=6"));
if (api('setStatus', "&id=$id&status=8") !== 'ACCESS_CANCEL') exit("cancel\n");
if (json_decode(api('getPrices', "&service=$service&country=6"), true)['6'][$service]['cost'] <= 0) exit("price\n");
echo "OK:$phone:$first:$second\n";
