# Makes this Windows machine a worker of the training fleet, as a Scheduled Task that starts with the machine. Run it in the
# clone, in a PowerShell opened as administrator, with the line that `cis490-jobs hosts add NAME` prints on the receiver:
#
#   'cis490-join-1....' | powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1
#
#   -Check       test this machine, and the token if there is one; change nothing but .venv, and stop
#   -Torch       with torch, for the deep models ($env:TORCH names another build than the newest)
#   -Uninstall   take everything away again; refused while a finished result has not been delivered
#
# The token is read from the pipeline, for what stands in a command line every user of the machine can read. A second run
# changes nothing. $env:PYTHON names a Python to use. Exit codes: 0 done; 1 refused, or this machine cannot do it; 2 wrong
# usage, or no token; 3 the receiver cannot be reached; 4 it has not seen this host in time; 5 a result is not delivered.
#
# Written for Windows PowerShell 5.1, which every Windows 10 and 11 has, and for PowerShell 7. ASCII only: 5.1 reads a file
# without a byte order mark in the machine's own code page. Why it is as it is: docs/design/windows-worker.md.
#requires -Version 5.1
param([switch]$Check, [switch]$Torch, [switch]$Uninstall, [switch]$Help)

# Only here: inside a function $input is that function's own. Without attributes on the parameters the pipeline is not bound.
$token = (@($input) -join '').Trim()

Set-StrictMode -Version 2.0
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false # exit codes are looked at one by one
$ProgressPreference = 'SilentlyContinue'
$OutputEncoding = New-Object System.Text.ASCIIEncoding # what goes into a program's standard input; no byte order mark
$env:PYTHONUTF8 = '1'
$env:PYTHONDONTWRITEBYTECODE = '1'

$here = (Get-Item -LiteralPath $PSScriptRoot).Parent.FullName
$system32 = Join-Path $env:SystemRoot 'System32'
$state = Join-Path $env:ProgramData 'cis490-worker'
$credentials = Join-Path $state 'credentials'
$logFolder = Join-Path $state 'log'
$taskName = 'cis490-trainer-worker'
$venv = Join-Path $here '.venv'
if ($Torch) { $venv = Join-Path $here '.venv-full' }
$python = Join-Path $venv 'Scripts\python.exe'
$seenWithinS = 60
# By number, since their names are translated: SYSTEM, Administrators, Users, LOCAL SERVICE.
$system, $administrators, $users, $localService = '*S-1-5-18', '*S-1-5-32-544', '*S-1-5-32-545', '*S-1-5-19'
$script:changes = @()

function Write-Ok([string]$Text) { Write-Host "  [ok]   $Text" }

function Add-Change([string]$Text) {
    $script:changes += $Text
    Write-Ok $Text
}

# Ends the script: a sentence, then what to type.
function Stop-Install([int]$Code, [string]$Sentence, [string[]]$Next) {
    [Console]::Error.WriteLine('')
    [Console]::Error.WriteLine("install stopped: $Sentence")
    foreach ($line in $Next) { [Console]::Error.WriteLine("  $line") }
    exit $Code
}

# What a program prints, or nothing when it fails or is not there. Its own words on standard error are thrown away: under
# 'Stop', PowerShell 5.1 would take the first of them for an error of the script.
function Read-Program([string]$Program, [string[]]$Arguments) {
    $ErrorActionPreference = 'Continue'
    try { $said = & $Program @Arguments 2>$null } catch { return }
    if ($LASTEXITCODE -eq 0) { $said }
}

# Runs a program whose words are for the person here; its exit code is in $LASTEXITCODE.
function Show-Program([string]$Program, [string[]]$Arguments) { & $Program @Arguments | Out-Host }

# The enrolment program of the clone. The token goes through a pipe, never as an argument.
function Invoke-Join([string]$Text, [string[]]$Arguments) {
    $all = @('-m', 'training.fleet.join', '--credentials', $credentials, '--state-dir', $state) + $Arguments
    $Text | & $python @all | Out-Host
}

function Test-Below([string]$Path, [string]$Folder) {
    return ($Path.TrimEnd('\') + '\').StartsWith($Folder.TrimEnd('\') + '\', [StringComparison]::OrdinalIgnoreCase)
}

function Get-ProfilesFolder {
    $key = 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\ProfileList'
    return [Environment]::ExpandEnvironmentVariables((Get-ItemProperty -LiteralPath $key).ProfilesDirectory)
}

function Assert-Windows {
    if ($env:OS -ne 'Windows_NT') {
        Stop-Install 1 'this is not Windows.' @('On Linux: scripts/install-training-worker.sh')
    }
    if (-not [Environment]::Is64BitProcess) {
        Stop-Install 1 'this PowerShell has 32 bits, and the worker needs 64.' @('Open the PowerShell without (x86) in its name.')
    }
}

# A service may not look into people's folders, and a network drive is not there when the machine starts.
function Assert-Place {
    $better = Join-Path $env:ProgramFiles 'cis490' # where by default only administrators may write
    $next = @("As administrator: Copy-Item -Recurse -Force '$here' '$better'",
        "Then: Set-Location '$better' and paste the same line once more")
    if (-not (Test-Path -LiteralPath (Join-Path $here 'training\fleet\worker.py'))) {
        Stop-Install 1 "$here is no clone of the project: it has no training\fleet\worker.py." @('Run the script in the clone.')
    }
    if ($here -notmatch '^[A-Za-z]:\\[A-Za-z0-9._\\ -]+$') {
        Stop-Install 1 "this clone lies in $here; expected a folder on a drive of this machine, named with A-Z a-z 0-9 . _ - only." $next
    }
    if ((New-Object System.IO.DriveInfo ($here.Substring(0, 1))).DriveType -ne [IO.DriveType]::Fixed) {
        Stop-Install 1 "this clone lies in $here, on a drive that may be missing when the machine starts." $next
    }
    if (Test-Below $here (Get-ProfilesFolder)) {
        Stop-Install 1 "this clone lies in $here, in a person's folder, where a service may not look." $next
    }
}

function Assert-Administrator([string]$Again) {
    $me = [Security.Principal.WindowsIdentity]::GetCurrent()
    $role = [Security.Principal.WindowsBuiltInRole]::Administrator
    if (-not (New-Object Security.Principal.WindowsPrincipal $me).IsInRole($role)) {
        Stop-Install 1 "a Scheduled Task is installed by an administrator, and this window is not one ($($me.Name))." @(
            'Press the Windows key, type PowerShell, choose "Run as administrator".', "Then: Set-Location '$here'", "And: $Again")
    }
}

# A Python of 64 bits from 3.11 on that other accounts can read as well: its own folder, and what to type to start it.
function Find-Python {
    $about = "import struct, sys; print(sys.base_prefix) if sys.version_info >= (3, 11) and struct.calcsize('P') == 8 else None"
    $candidates = @(@('py', '-3'), @('py', '-3.13'), @('py', '-3.12'), @('py', '-3.11'), @('python'))
    if ($env:PYTHON) { $candidates = @(, @($env:PYTHON)) + $candidates }
    $unfit = @()
    foreach ($candidate in $candidates) {
        $before = @($candidate | Select-Object -Skip 1)
        $prefix = @(Read-Program $candidate[0] ($before + @('-c', $about)))
        if ($prefix.Count -ne 1) { continue }
        $isPrivate = Test-Below $prefix[0] (Get-ProfilesFolder)
        if (-not $isPrivate -and $prefix[0] -notlike '*\WindowsApps\*') { return [string](Join-Path $prefix[0] 'python.exe') }
        $unfit += $prefix[0]
    }
    $found = 'no Python 3.11 or newer with 64 bits was found'
    if ($unfit.Count -gt 0) { $found = "the Python in $($unfit[0]) belongs to one person, and a service cannot use it" }
    Stop-Install 1 "$found." @('Type: winget install --scope machine Python.Python.3.12',
        'Or run the installer from python.org and tick "Install Python for all users".', 'Then open a new window and paste the same line once more.')
}

# What the environment depends on: where the clone lies, its Python, the locked packages.
function Get-Fingerprint([string]$Base) {
    $files = @(Get-ChildItem -LiteralPath (Join-Path $here 'requirements') -Filter '*.txt' | Sort-Object Name)
    $files += Get-Item -LiteralPath (Join-Path $here 'pyproject.toml')
    $parts = @($here, $Base, $env:TORCH) + @(Read-Program $Base @('-VV'))
    $parts += @($files | ForEach-Object { (Get-FileHash -LiteralPath $_.FullName -Algorithm SHA256).Hash })
    return (Get-Digest ($parts -join '|'))
}

function Get-Digest([string]$Text) {
    $sha = [Security.Cryptography.SHA256]::Create()
    return [BitConverter]::ToString($sha.ComputeHash([Text.Encoding]::UTF8.GetBytes($Text))).Replace('-', '').ToLowerInvariant()
}

function Install-Locked([string[]]$Arguments) {
    $log = Join-Path $venv 'setup.log'
    $pip = @('-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--progress-bar', 'off', '--log', $log)
    Show-Program $python ($pip + $Arguments)
    if ($LASTEXITCODE -ne 0) {
        Stop-Install 1 "pip failed (see above; everything is in $log)." @('Is there a network? Then paste the same line once more.',
            'A worker that was installed here before is switched off until this has worked.',
            "A half-made environment may be deleted: Remove-Item -Recurse -Force '$venv'")
    }
}

# The environment with the locked packages, as scripts/setup.sh makes it elsewhere. Changes nothing when it is up to date.
function Install-Packages {
    $base = Find-Python
    $stamp = Join-Path $venv 'cis490-setup'
    $wanted = Get-Fingerprint $base
    if ((Test-Path -LiteralPath $python) -and (Test-Path -LiteralPath $stamp) -and
        ([IO.File]::ReadAllText($stamp).Trim() -eq $wanted)) { return }
    if (-not $Check) { Stop-Worker } # Windows does not replace a library that is in use
    if (-not (Test-Path -LiteralPath $python)) {
        if (Test-Path -LiteralPath $venv) {
            Stop-Install 1 "$venv exists and is no environment of this machine; it is left alone." @(
                "Type: Remove-Item -Recurse -Force '$venv'", 'Then paste the same line once more.')
        }
        Show-Program $base @('-m', 'venv', $venv)
        if ($LASTEXITCODE -ne 0) { Stop-Install 1 "$base could not make $venv (see above)." @(
                'Is the disk full, or the clone a folder that only administrators may write to?') }
        [IO.File]::WriteAllText((Join-Path $venv 'made-by-installer'), '')
    }
    if (Test-Path -LiteralPath $stamp) { [IO.File]::Delete($stamp) }
    Write-Host '  ....   fetching the locked packages (100 MB; with torch more)'
    Install-Locked @('--require-hashes', '--only-binary', ':all:', '--requirement', 'requirements\run.txt')
    if ($Torch) {
        $build = 'torch'
        if ($env:TORCH) { $build = $env:TORCH }
        Install-Locked @('--require-hashes', '--only-binary', ':all:', '--requirement', 'requirements\torch.txt')
        Install-Locked @('--only-binary', ':all:', $build)
    }
    Install-Locked @('--no-deps', '--no-build-isolation', '--no-index', '--editable', '.')
    [IO.File]::WriteAllText($stamp, $wanted)
    Add-Change "packages installed in $venv"
}

function Set-Access([string]$Path, [string[]]$Arguments) {
    & (Join-Path $system32 'icacls.exe') $Path @Arguments /Q | Out-Null
    if ($LASTEXITCODE -ne 0) {
        Stop-Install 1 "the rights on $Path could not be set (icacls ended with $LASTEXITCODE)." @("Look: icacls '$Path'")
    }
}

# Made by an administrator, and no link to somewhere else: everybody may make folders in ProgramData.
function Assert-Own([string]$Path) {
    $item = Get-Item -LiteralPath $Path -Force
    $owner = (Get-Acl -LiteralPath $Path).GetOwner([Security.Principal.SecurityIdentifier]).Value
    $isLink = ($item.Attributes -band [IO.FileAttributes]::ReparsePoint) -ne 0
    if (-not $item.PSIsContainer -or $isLink -or ('S-1-5-32-544', 'S-1-5-18') -notcontains $owner) {
        Stop-Install 1 "$Path is there already and was not made by this script (owner $owner); it is left alone." @(
            "Look what it is. If nobody needs it: Remove-Item -Recurse -Force '$Path'", 'Then paste the same line once more.')
    }
}

# The state folder with the key: for SYSTEM, administrators and the worker's account alone.
function New-StateFolder {
    $isNew = -not (Test-Path -LiteralPath $state)
    if (-not $isNew) {
        Assert-Own $state
    } else {
        New-Item -ItemType Directory -Path $state | Out-Null
        Set-Access $state @('/setowner', $administrators)
        Add-Change "$state made"
    }
    Set-Access $state @('/inheritance:r', '/grant:r', "${system}:(OI)(CI)F", "${administrators}:(OI)(CI)F", "${localService}:(OI)(CI)M")
    if ($isNew -and @(Get-ChildItem -LiteralPath $state -Force).Count -gt 0) {
        Stop-Install 1 "somebody put something into $state while it was made." @("Look at it, then: Remove-Item -Recurse -Force '$state'")
    }
    foreach ($folder in @($credentials, $logFolder)) {
        # Not left to Python: a folder that it makes with mode 0700 is for its maker alone, and the maker is not the service.
        if (-not (Test-Path -LiteralPath $folder)) {
            New-Item -ItemType Directory -Path $folder | Out-Null
            Set-Access $folder @('/setowner', $administrators)
        }
        Assert-Own $folder
    }
}

# Whoever can change the code can act as the worker: only administrators may. By default every user may write below C:\.
function Protect-Clone {
    Set-Access $here @('/inheritance:r', '/grant:r', "${system}:(OI)(CI)F", "${administrators}:(OI)(CI)F", "${users}:(OI)(CI)RX",
        "${localService}:(OI)(CI)RX")
}

function Get-Worker { return Get-ScheduledTask -TaskName $taskName -TaskPath '\' -ErrorAction SilentlyContinue }

# Ends the task if it runs, and keeps its timer from starting it again until Start-Worker. That is a kill: the guard ends the
# trainer, and the next start of the worker settles its lease.
function Stop-Worker {
    $task = Get-Worker
    if ($null -eq $task) { return }
    Stop-ScheduledTask -InputObject $task -ErrorAction SilentlyContinue
    for ($i = 0; $i -lt 60 -and (Get-Worker).State -eq 'Running'; $i++) { Start-Sleep -Milliseconds 500 }
    Disable-ScheduledTask -InputObject $task | Out-Null
    Stop-ScheduledTask -InputObject $task -ErrorAction SilentlyContinue # if the timer came in between
}

function Start-Worker {
    Enable-ScheduledTask -TaskName $taskName -TaskPath '\' | Out-Null
    Start-ScheduledTask -TaskName $taskName -TaskPath '\'
}

function Get-Definition {
    $text = [IO.File]::ReadAllText((Join-Path $here 'etc\cis490-trainer-worker-task.xml'))
    $text = $text.Replace('<?xml version="1.0"?>', '') # it goes on as a string, which has no encoding to declare
    foreach ($pair in @(@('@PYTHON@', $python), @('@STATE@', $state), @('@CLONE@', $here))) {
        $text = $text.Replace($pair[0], [Security.SecurityElement]::Escape($pair[1]))
    }
    return $text.Replace('@DIGEST@', (Get-Digest $text)).Trim()
}

function Install-Task {
    $definition = Get-Definition
    $task = Get-Worker
    if ($null -eq $task -or -not $definition.Contains("<Description>$($task.Description)</Description>")) {
        Stop-Worker # one that runs would go on with the old definition
        Register-ScheduledTask -TaskName $taskName -TaskPath '\' -Xml $definition -Force | Out-Null
        Add-Change "Scheduled Task $taskName registered: starts with the machine, no time limit"
    }
    if ($script:changes.Count -gt 0) { Stop-Worker } # the one that runs may not know of them
    if ((Get-Worker).State -ne 'Running') {
        Start-Worker
        Add-Change 'worker started'
    }
}

function Show-Log {
    $log = Join-Path $logFolder 'worker.log'
    if (Test-Path -LiteralPath $log) { Get-Content -LiteralPath $log -Tail 8 | Out-Host }
}

function Install-Worker {
    $again = "'cis490-join-1....' | powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1"
    Assert-Place
    if (-not $Check) { Assert-Administrator $again }
    $identity = Join-Path $credentials 'identity.pem'
    if (-not $Check -and -not $token -and -not (Test-Path -LiteralPath $identity)) {
        Stop-Install 2 'this machine is not enrolled yet, and there was no token on the pipeline.' @(
            'On the receiver: cis490-jobs hosts add NAME', 'Then paste the line that it prints for Windows.')
    }
    $task = $null
    if (-not $Check) {
        Protect-Clone # before anything of it runs as administrator
        $task = Get-Worker
    }
    if (-not $Torch -and $null -ne $task -and $task.Actions[0].Execute -like '*\.venv-full\*') {
        Stop-Install 2 'this worker was installed with -Torch, and would lose it.' @(
            'Type: powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Torch',
            'To go without it: -Uninstall first.')
    }
    Install-Packages
    if ($Check) {
        Invoke-Join $token @('--check')
        exit $LASTEXITCODE
    }
    $before = ''
    if (Test-Path -LiteralPath $identity) { $before = (Get-FileHash -LiteralPath $identity).Hash }
    if (-not $before) {
        Invoke-Join $token @('--check')
        if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
    }
    New-StateFolder
    Invoke-Join $token @('--skip-trainer')
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
    if ((Get-FileHash -LiteralPath $identity).Hash -ne $before) { Add-Change 'joined' }
    Install-Task
    Invoke-Join '' @('--wait-seen', "$seenWithinS")
    if ($LASTEXITCODE -ne 0) {
        $code = $LASTEXITCODE
        Show-Log
        Stop-Install $code 'the task runs, and the receiver has not seen the worker (the end of its log stands above).' @(
            "Look: Get-Content -Wait -Tail 20 '$logFolder\worker.log'", "And: Get-ScheduledTaskInfo $taskName   (LastTaskResult)")
    }
    if ($script:changes.Count -eq 0) {
        Write-Host 'nothing to do: this machine is a worker already, and the receiver sees it.'
    } else {
        Write-Host 'done: this machine is a worker, now and whenever it starts.'
    }
    Write-Host "  its log: Get-Content -Wait -Tail 20 '$logFolder\worker.log'"
    Write-Host '  take it away again: powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Uninstall'
}

# Is a result here that the receiver has not got? Then the script ends here, and the worker goes on so that it delivers it.
function Assert-MayLeave([bool]$StartsAgain) {
    Invoke-Join '' @('--may-leave')
    if ($LASTEXITCODE -eq 0) { return }
    $code = $LASTEXITCODE
    if ($StartsAgain) { Start-Worker }
    exit $code
}

# Links below it are removed, not followed: the worker's account may have made some.
function Remove-Folder([string]$Path) {
    for ($i = 0; $i -lt 20; $i++) {
        try {
            [IO.Directory]::Delete($Path, $true)
            return
        } catch {
            $why = $_.Exception.Message
            Start-Sleep -Milliseconds 500
        }
    }
    Stop-Install 1 "$Path could not be removed: $why" @('Does a process still use it? Restart the machine and type the same once more.')
}

function Uninstall-Worker {
    Assert-Administrator 'powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Uninstall'
    foreach ($name in @('.venv', '.venv-full')) {
        $each = Join-Path $here "$name\Scripts\python.exe"
        if (Test-Path -LiteralPath $each) { $python = $script:python = $each }
    }
    $task = Get-Worker
    if (Test-Path -LiteralPath $state) {
        if (-not (Test-Path -LiteralPath $python)) {
            Stop-Install 1 "whether a result waits in $state cannot be asked: this clone has no environment." @(
                'Type: powershell -ExecutionPolicy Bypass -File scripts\install-training-worker-windows.ps1 -Check', 'Then the same once more.')
        }
        Assert-MayLeave $false
        Stop-Worker
        Assert-MayLeave ($null -ne $task) # a result may have been finished meanwhile
    }
    if ($null -ne $task) {
        Stop-Worker # where there was no folder to ask about; one that is forgotten would run on
        Unregister-ScheduledTask -TaskName $taskName -TaskPath '\' -Confirm:$false
        Add-Change "Scheduled Task $taskName stopped and removed"
    }
    if (Test-Path -LiteralPath $state) {
        Remove-Folder $state
        Add-Change "$state removed, with this machine's key"
    }
    foreach ($name in @('.venv', '.venv-full')) {
        $folder = Join-Path $here $name
        if (Test-Path -LiteralPath (Join-Path $folder 'made-by-installer')) {
            Remove-Folder $folder
            Add-Change "$folder removed"
        }
    }
    if ($script:changes.Count -eq 0) {
        Write-Host 'nothing to do: no worker is installed here.'
        return
    }
    Set-Access $here @('/reset') # the clone has the rights of its folder again
    Write-Host "done: this machine is no worker any more. The clone, $here, is still there."
    Write-Host '  on the receiver, so that its certificate counts no more: cis490-jobs hosts revoke NAME'
}

function Show-Help {
    foreach ($line in [IO.File]::ReadAllLines($PSCommandPath)) {
        if ($line -notlike '#*' -or $line -like '#requires*') { break }
        Write-Host ($line -replace '^# ?', '')
    }
}

if (@($args | Where-Object { "$_" -like 'cis490-join-*' }).Count -gt 0) {
    Stop-Install 2 'the token was given as an argument, where every user of this machine can read it; it counts as known now.' @(
        'On the receiver: cis490-jobs hosts add NAME', 'Then paste the line that it prints: it hands the token over on the pipeline.')
}
if ($args.Count -gt 0) {
    Stop-Install 2 'there is no such option; expected -Check, -Torch or -Uninstall.' @('Type: scripts\install-training-worker-windows.ps1 -Help')
}
if ($Help) {
    Show-Help
    exit 0
}
if ($Check -and $Uninstall) {
    Stop-Install 2 '-Check changes nothing and -Uninstall takes everything away: only one of them.' @(
        'Type: scripts\install-training-worker-windows.ps1 -Help')
}
Assert-Windows
Push-Location -LiteralPath $here
try {
    if ($Uninstall) { Uninstall-Worker } else { Install-Worker }
} finally {
    Pop-Location
}
exit 0
