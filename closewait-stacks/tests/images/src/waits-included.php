<?php
// Part of waits.php.
(new Shop\Orders\Shelf())->reserve(22);
