<?php
/* As on a hundred forums: file_get_contents, explode(':'), equality; then the same by curl's form, where PHP has curl.

from: PHP
path: /stubs/handler_api.php
calls: balance prices operators number ready waiting code again finish cancel history bad_key no_numbers bad_service
*/
[, $url, , $key] = $argv;
$service = 'tg';

function api($action, $more = '') {
    global $url, $key;
    $answer = file_get_contents("$url?api_key=$key&action=$action$more");
    if ($answer === false) stop('no answer');
    return $answer;
}

function stop($why) {
    fwrite(STDERR, "$why\n");
    exit(1);
}

function ok($name, $is) {
    if (!$is) stop($name);
    echo "ok $name\n";
}

function code($id) {
    for ($i = 0; $i < 150; $i++) {
        $parts = explode(':', api('getStatus', "&id=$id"));
        if ($parts[0] == 'STATUS_OK') return $parts[1];
        if ($parts[0] != 'STATUS_WAIT_CODE' && $parts[0] != 'STATUS_WAIT_RETRY') stop("unknown {$parts[0]}");
        usleep(100000);
    }
    stop('no code');
}

$before = explode(':', api('getBalance'));
ok('balance', $before[0] === 'ACCESS_BALANCE' && is_numeric($before[1]));
ok('prices', json_decode(api('getPrices', "&service=$service&country=6"), true)['6'][$service]['cost'] > 0);
ok('operators', in_array('telkomsel', json_decode(api('getOperators', '&country=6'), true)['countryOperators']['6']));
$number = explode(':', api('getNumber', "&service=$service&country=6"));
ok('number', count($number) === 3 && $number[0] === 'ACCESS_NUMBER' && preg_match('/^62\d+$/', $number[2]));
[, $id] = $number;
ok('waiting', api('getStatus', "&id=$id") === 'STATUS_WAIT_CODE');
ok('ready', api('setStatus', "&id=$id&status=1") === 'ACCESS_READY');
$first = code($id);
ok('code', preg_match('/^\d{4,8}$/', $first));
if (api('setStatus', "&id=$id&status=3") !== 'ACCESS_RETRY_GET') stop('retry');
ok('again', code($id) !== $first);
ok('finish', api('setStatus', "&id=$id&status=6") === 'ACCESS_ACTIVATION' && api('getStatus', "&id=$id") === 'STATUS_CANCEL');
$paid = api('getBalance');
[, $other] = explode(':', api('getNumber', "&service=$service&country=6"));
ok('cancel', api('setStatus', "&id=$other&status=8") === 'ACCESS_CANCEL' && api('getBalance') === $paid);
ok('history', array_column(json_decode(api('getHistory'), true), 'status', 'id') == [$id => '6', $other => '8']);
ok('bad_key', file_get_contents("$url?api_key=wrong&action=getBalance") === 'BAD_KEY');
ok('no_numbers', api('getNumber', '&service=zz&country=204') === 'NO_NUMBERS');
ok('bad_service', api('getNumber', '&service=nonsense&country=6') === 'BAD_SERVICE');
