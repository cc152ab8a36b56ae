# A job for each connection, on the descriptors 0 to 2 as inetd gives them; the first line says which.
read -r line
case $line in
    slow*)
        sleep 20
        ;;
    daemon*)
        # A daemon that forgets to close what it has inherited.
        sleep 150 &
        exit
        ;;
esac
echo ok
